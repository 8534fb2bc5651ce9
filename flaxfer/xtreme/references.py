"""Published scores on XTREME-R, each with its protocol."""

from __future__ import annotations

from typing import NamedTuple


class Reference(NamedTuple):
    """A published score, in percent.

    Attributes:
      task: Task of XTREME-R; empty for a mean over tasks.
      system: Model.
      score: The score, or a range.
      protocol: What was trained and averaged, as far as it is known.
    """

    task: str
    system: str
    score: str
    protocol: str


_SEEDS = "five seeds; other settings not verified"
_CROSS = "README of LAReQA: dual encoder trained on SQuAD, mean average precision"
REFERENCES = (
    Reference("", "XLM-R base", "62.0", "mean of the convention of nlu-evals"),
    Reference("", "XLM-R base", "62.3", "the same convention, as run by Nomic"),
    Reference("", "mGTE base", "64.4 to 65.2", "the same convention, several reports"),
    Reference("xnli", "XLM-R base", "78.2", _SEEDS),
    Reference("xnli", "XLM-R large", "84.7", _SEEDS),
    Reference("xnli", "mDeBERTa-v3 base", "83.0", _SEEDS),
    Reference("lareqa", "mBERT (En-En)", "29", _CROSS),
    Reference("lareqa", "mBERT (X-X)", "23", _CROSS),
    Reference("lareqa", "mBERT (X-X-mono)", "52", _CROSS),
    Reference("lareqa", "mBERT (X-Y)", "66", _CROSS),
)
