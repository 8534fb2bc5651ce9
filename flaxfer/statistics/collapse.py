"""Runs that have not learned: degenerate fine-tuning.

Fine-tuning pretrained encoders on small data sometimes fails altogether with one seed and works
with the next (Devlin et al. 2019, section 4.1, "degenerate" runs; Phang et al. 2018, whose scores
over seeds have two modes). Mosbach et al. (2021) call a run failed if it ends no better than a
majority classifier. Scores of such runs are of another distribution than those of the others, and
one of them among three seeds decides mean and spread.

A run has collapsed if it has learned nothing on any set in a language that it was trained in (on
any set at all, if there is none such). One that has learned there, and not in another language, has
not failed: that it transfers nothing is a result. On a set a run has learned nothing if

- its predictions are constant: one class (of tags: one tag, of answers: one text) for at least
  99 % of the examples, where no class has that share of the labels; or outputs whose standard
  deviation is below 1 % of that of the scores;
- or its score is at the level of chance while another run of the same comparison has learned.

The score is one that chance brings to 0 whatever the shares of the classes: Matthews' correlation
for classes and choices, Pearson's for scores, F1 for tags and answers. With balanced classes
Matthews' is the accuracy beyond the majority's, as a share of what there is to gain; with others
accuracy can stay at the majority's while something is learned, and is no criterion by itself.
Chance is up to 0.05, or two standard errors of a correlation that is 0, 2 / sqrt(n), if that is
more; learned is at least 0.2 and twice the former. Between the two nothing is decided: a weak
transfer is a result, and no collapse.
"""

from __future__ import annotations

import dataclasses

from flaxfer.evaluation.chance import chance
from flaxfer.tasks.resampling import Learning

LEARNED = 0.2


@dataclasses.dataclass(frozen=True)
class Collapsed:
    """A run that has learned nothing on a set, or on sets of a mean.

    Attributes:
      path, seed: of the run.
      stage_id: of its folder in the store of stages.
      why: in words, with numbers.
    """

    condition: str
    seed: int
    stage_id: str
    why: str


def why_nothing(runs: list[Learning], n: int) -> list[str]:
    """For each run on a set of n examples why it has learned nothing; empty if it has."""
    at_most = chance(n)
    best = max(run.score for run in runs)
    learned = best >= max(LEARNED, 2 * at_most)
    return [
        run.constant
        or (
            f"{run.name} {run.score:.3f} is chance, while another run reaches {best:.3f}"
            if learned and run.score <= at_most
            else ""
        )
        for run in runs
    ]
