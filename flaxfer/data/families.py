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
      tokenizer: Class of its tokenizers in transformers, a key of `TOKENIZERS`.
      positions: Position of a token: its index in the sequence (`absolute`), the index plus
        padding id + 1 (`after_padding`), or relative to other tokens, unbounded (`relative`).
        After padding, a padding token within a text takes no position, as in transformers.
    """

    architecture: Literal["bert", "roberta", "xlnet"]
    prefix: str
    class_prefix: str
    pad_token_id: int
    cls_last: bool
    token_types: bool
    positions: Literal["absolute", "after_padding", "relative"]
    tokenizer: str


@dataclasses.dataclass(frozen=True)
class TokenizerClass:
    """A class of transformers that makes a tokenizer from vocabulary files.

    Attributes:
      files: Its vocabulary files.
      tokens: Special tokens by role, where no file names others.
      reads: Settings of tokenizer_config.json that it reads.
    """

    files: tuple[str, ...]
    tokens: Mapping[str, str]
    reads: frozenset[str]


_BRACKETS = {f"{role}_token": f"[{role.upper()}]" for role in ("pad", "unk", "cls", "sep", "mask")}
_ANGLES = {f"{role}_token": f"<{role}>" for role in ("pad", "unk", "cls", "sep", "mask")}
_ANGLES |= {"bos_token": "<s>", "eos_token": "</s>"}
_SENTENCES = _ANGLES | {"cls_token": "<s>", "sep_token": "</s>"}
_PREFIX = frozenset({"add_prefix_space"})

WORD_PIECES = TokenizerClass(
    ("vocab.txt",),
    _BRACKETS,
    frozenset({"do_lower_case", "strip_accents", "tokenize_chinese_chars"}),
)
_SENTENCE_PIECES = TokenizerClass(("sentencepiece.bpe.model",), _SENTENCES, _PREFIX)

TOKENIZERS: Mapping[str, TokenizerClass] = {
    "BertTokenizer": WORD_PIECES,
    "DistilBertTokenizer": WORD_PIECES,
    "ElectraTokenizer": WORD_PIECES,
    "RobertaTokenizer": TokenizerClass(("vocab.json", "merges.txt"), _SENTENCES, _PREFIX),
    "XLMRobertaTokenizer": _SENTENCE_PIECES,
    "CamembertTokenizer": _SENTENCE_PIECES,
    "XLNetTokenizer": TokenizerClass(
        ("spiece.model",), _ANGLES, frozenset({"do_lower_case", "keep_accents"})
    ),
}
"""Classes whose vocabulary files can be read without a tokenizer.json."""

GENERIC = ("PreTrainedTokenizer", "TokenizersBackend")
"""Names of the class that is what tokenizer.json says."""

WORD_SPLITTERS: Mapping[str, str] = {
    "BertJapaneseTokenizer": "MeCab, Sudachi or Juman++",
    "BertweetTokenizer": "a tokenizer of tweets",
    "CpmAntTokenizer": "Jieba",
    "CpmTokenizer": "Jieba",
    "FlaubertTokenizer": "Moses",
    "HerbertTokenizer": "Moses",
    "PhobertTokenizer": "VnCoreNLP",
    "RoFormerTokenizer": "Jieba",
    "XLMTokenizer": "Moses",
}
"""Classes that read words from another program, which their vocabulary files do not describe."""

_BERT = Family(
    "bert",
    "bert.",
    "Bert",
    0,
    cls_last=False,
    token_types=True,
    positions="absolute",
    tokenizer="BertTokenizer",
)
_ROBERTA = Family(
    "roberta",
    "roberta.",
    "Roberta",
    1,
    cls_last=False,
    token_types=False,
    positions="after_padding",
    tokenizer="RobertaTokenizer",
)
_XLNET = Family(
    "xlnet",
    "transformer.",
    "XLNet",
    5,
    cls_last=True,
    token_types=True,
    positions="relative",
    tokenizer="XLNetTokenizer",
)

FAMILIES: Mapping[str, Family] = {
    "bert": _BERT,
    "ernie": dataclasses.replace(_BERT, prefix="ernie.", class_prefix="Ernie"),
    "roberta": _ROBERTA,
    "xlm-roberta": dataclasses.replace(
        _ROBERTA, class_prefix="XLMRoberta", tokenizer="XLMRobertaTokenizer"
    ),
    "camembert": dataclasses.replace(
        _ROBERTA, class_prefix="Camembert", tokenizer="CamembertTokenizer"
    ),
    "data2vec-text": dataclasses.replace(
        _ROBERTA, prefix="data2vec_text.", class_prefix="Data2VecText"
    ),
    "xlnet": _XLNET,
}
