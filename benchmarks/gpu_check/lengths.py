r"""Store the lengths of real examples, for models without a tokenizer.

python -m benchmarks.gpu_check.lengths --data stsb-multi-mt/stsb-en-train.csv \
    --long imdb-sample/dev.tsv --bert FOLDER --xlmr FOLDER

Writes lengths.json: for each tokenizer, how many examples of STS-B have each number of tokens
(special tokens included, at most 128), and how many different token ids occur in them, and in texts
of up to 512 tokens.
"""

from __future__ import annotations

import argparse
import collections
import json
from collections.abc import Sequence
from pathlib import Path

import transformers

from benchmarks import common
from benchmarks.gpu_check.shapes import FILE


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="STS-B, training split")
    parser.add_argument("--long", type=Path, required=True, help="texts of 512 tokens and more")
    parser.add_argument("--bert", required=True, help="folder of BERT's tokenizer")
    parser.add_argument("--xlmr", required=True, help="folder of XLM-R's tokenizer")
    parser.add_argument("--out", type=Path, default=FILE)
    options = parser.parse_args(arguments)
    pairs, texts = common.read(options.data), common.read(options.long)
    stored = {
        name: measure(transformers.AutoTokenizer.from_pretrained(folder), pairs, texts)
        | {"data": options.data.name, "long": options.long.name}
        for name, folder in (("bert-base", options.bert), ("xlm-roberta-base", options.xlmr))
    }
    options.out.write_text(json.dumps(stored) + "\n", encoding="utf-8")


def measure(tokenizer: object, pairs: common.Texts, texts: common.Texts) -> dict[str, object]:
    """Return the number of examples of each length, and the numbers of different ids."""
    short = pairs.encode(tokenizer, max_length=128)["input_ids"]
    long = texts.encode(tokenizer, max_length=512)["input_ids"]
    return {
        "lengths": dict(sorted(collections.Counter(map(len, short)).items())),
        "ids": len({token for ids in short for token in ids}),
        "long_ids": len({token for ids in long for token in ids}),
    }


if __name__ == "__main__":
    common.guarded(main)
