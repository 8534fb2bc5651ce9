"""Detection of runs that learned nothing: degenerate fine-tuning.

Fine-tuning pretrained encoders on small data sometimes fails altogether with one seed and works
with the next (Devlin et al. 2019, section 4.1, "degenerate" runs; Phang et al. 2018, whose scores
over seeds are bimodal). Mosbach et al. (2021) call a run failed if it ends no better than a
majority classifier. The scores of such runs follow another distribution, and one of them among
three seeds dominates mean and standard deviation.

A run has collapsed if it learned nothing on any set in a language that it was trained on (or on any
set at all, if there is none in such a language). A run that learned there, but nothing in another
language, has not collapsed: a lack of transfer is a result. A run learned nothing on a set if

- its predictions are constant: one class (or tag, or answer text) for at least 99 % of the
  examples, although no class makes up as much of the labels; or outputs whose standard deviation is
  below 1 % of that of the true scores;
- or its score is at chance level while another run of the same comparison has learned.

The score is one with expectation 0 under chance for any class frequencies: Matthews' correlation
for classes and choices, Pearson's for scores, F1 for tags and answers. With balanced classes,
Matthews' correlation is the gain in accuracy over the majority class relative to the largest
possible gain; with unbalanced classes accuracy may stay at the majority's although something is
learned, so accuracy is no criterion. `evaluation.chance` defines the chance level. A run has
learned at 0.2 and twice the chance level. Scores in between decide nothing: weak transfer is a
result and no collapse.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from flaxfer.evaluation.chance import chance
from flaxfer.tasks.resampling import Learning

LEARNED = 0.2


@dataclasses.dataclass(frozen=True)
class Collapsed:
    """A run that learned nothing on a set, or on sets of a mean.

    Attributes:
      condition, seed: of the run.
      stage_id: name of its folder in the store of stages.
      why: reason, with numbers.
    """

    condition: str
    seed: int
    stage_id: str
    why: str


def at_chance(runs: Sequence[Learning], conditions: Sequence[str], n: int) -> bool:
    """Return whether the mean score of each condition on a set is at chance level.

    Nothing can be learned there about the effect of an intermediate task: differences on the set
    are near 0 whatever the task does, and pull means towards 0.

    Args:
      runs: learning of the runs on the set.
      conditions: condition of each run.
      n: number of units of the set.
    """
    scores = np.array([run.score for run in runs])
    means = [scores[np.array(conditions) == name].mean() for name in set(conditions)]
    return bool(max(means) <= chance(n, runs[0].classes))


def why_unlearned(runs: Sequence[Learning], n: int) -> list[str]:
    """Return by run why it learned nothing on n units; empty if it learned something."""
    at_most = chance(n, runs[0].classes)
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
