"""Properties of the families of encoders, by the `model_type` of config.json."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Family:
    """Special tokens, positions and names of weights in a family of encoders.

    Attributes:
      architecture: Key of `flaxfer.models.families.ARCHITECTURES`.
      prefix: Prefix of the encoder's weights in checkpoints of whole models.
      class_prefix: Prefix of the names of transformers' classes.
      pad_token_id: Padding id if config.json has none.
      cls_last: Whether the CLS token ([CLS], <s>) is the last token instead of the first.
      token_types: Whether token types distinguish the texts of a pair. BERT: 0, 1. XLNet: 0, 1,
        and 2 for the CLS token. RoBERTa has a single type, whatever its tokenizer says.
      positions: Position of a token: its index in the sequence (`absolute`), the index plus
        padding id + 1 (`after_padding`), or relative to other tokens, unbounded (`relative`).
    """

    architecture: Literal["bert", "roberta", "xlnet"]
    prefix: str
    class_prefix: str
    pad_token_id: int
    cls_last: bool
    token_types: bool
    positions: Literal["absolute", "after_padding", "relative"]


_BERT = Family("bert", "bert.", "Bert", 0, cls_last=False, token_types=True, positions="absolute")
_ROBERTA = Family(
    "roberta",
    "roberta.",
    "Roberta",
    1,
    cls_last=False,
    token_types=False,
    positions="after_padding",
)
_XLNET = Family(
    "xlnet", "transformer.", "XLNet", 5, cls_last=True, token_types=True, positions="relative"
)

FAMILIES: Mapping[str, Family] = {
    "bert": _BERT,
    "ernie": dataclasses.replace(_BERT, prefix="ernie.", class_prefix="Ernie"),
    "roberta": _ROBERTA,
    "xlm-roberta": dataclasses.replace(_ROBERTA, class_prefix="XLMRoberta"),
    "camembert": dataclasses.replace(_ROBERTA, class_prefix="Camembert"),
    "data2vec-text": dataclasses.replace(
        _ROBERTA, prefix="data2vec_text.", class_prefix="Data2VecText"
    ),
    "xlnet": _XLNET,
}
