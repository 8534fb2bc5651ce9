"""Parts of the check, the most valuable first, and the measurements of those that are timed."""

from __future__ import annotations

import dataclasses
from typing import Literal

Side = Literal["flaxfer", "torch"]
What = Literal["matmul", "train", "eval", "seeds", "profile"]


@dataclasses.dataclass(frozen=True)
class Cell:
    """One measurement of one side.

    Attributes:
      what: what is measured.
      model: key of `shapes.MODELS`.
      data: `stsb` (lengths of STS-B) or `full` (every example fills a row of 512 tokens).
      batch: examples per step.
      how: settings that differ from the defaults, joined with `+`. flaxfer: `no_attention_dropout`;
        `xla_attention` instead of the kernel that `auto` takes; `hash_dropout` for the bits of
        `runtime.prng.HASH`; `large_rows` for larger evaluation batches. torch: `dynamic` or
        `grouped` padding, `compile`, `no_attention_dropout`, `flash_attention_2`.
      seeds: seeds trained as one program.
      needs: seconds that have to be left for it to start.
      tiny: whether it runs with `--tiny`; others run the same code in other sizes.
    """

    what: What
    model: str = "bert-base"
    data: str = "stsb"
    batch: int = 32
    how: str = ""
    seeds: int = 1
    needs: float = 15.0
    tiny: bool = True

    @property
    def name(self) -> str:
        """Its name on the command line and in records."""
        if self.what == "matmul":
            return "matmul"
        words = [self.what, self.model, self.data, str(self.batch), self.how]
        return "-".join([*filter(None, words), *[f"seeds{self.seeds}"] * (self.what == "seeds")])


@dataclasses.dataclass(frozen=True)
class Part:
    """A process of its own with a time limit.

    Attributes:
      name: name for `--only`.
      module: module of this package that is run.
      seconds: time limit, unless less is left in all.
      cells: its cells, for modules that time.
      least: seconds that have to be left for it to start.
      correctness: whether its failure fails the check.
    """

    name: str
    module: str
    seconds: float
    cells: tuple[Cell, ...] = ()
    least: float = 20.0
    correctness: bool = False


FULL = "full"
NO_DROPOUT = "no_attention_dropout"
XLA, HASH = "xla_attention", "hash_dropout"

PARTS = (
    Part("correctness", "correctness", 80, correctness=True),
    Part(
        "flaxfer",
        "flaxfer_side",
        150,
        (
            Cell("matmul", needs=3),
            Cell("train", data=FULL, tiny=False),
            Cell("train"),
            Cell("train", data=FULL, how=NO_DROPOUT, tiny=False),
            *(Cell("seeds", seeds=seeds, tiny=seeds == 4) for seeds in (8, 1, 4)),
            Cell("eval"),
            Cell("eval", how="large_rows", tiny=False),
        ),
    ),
    Part(
        "torch",
        "torch_side",
        100,
        (
            Cell("train", data=FULL, how="dynamic", needs=8, tiny=False),
            Cell("train", how="grouped", needs=8),
            Cell("train", how="dynamic", needs=8, tiny=False),
            Cell("train", data=FULL, how=f"dynamic+{NO_DROPOUT}", needs=8, tiny=False),
            Cell("eval", how="grouped", needs=5),
            Cell("train", data=FULL, how="dynamic+compile", needs=25, tiny=False),
            Cell("train", how="grouped+compile", needs=25),
            Cell("train", data=FULL, how="dynamic+flash_attention_2", needs=5),
        ),
    ),
    Part("study", "study", 70, correctness=True),
    Part(
        "flaxfer-more",
        "flaxfer_side",
        120,
        (
            Cell("train", batch=128, tiny=False),
            Cell("train", data=FULL, batch=128, how=NO_DROPOUT, tiny=False),
            Cell("train", "xlm-roberta-base", tiny=False),
            Cell("eval", data=FULL, tiny=False),
            Cell("train", batch=512, tiny=False),
            Cell("train", "xlm-roberta-base", FULL, tiny=False),
            Cell("train", data=FULL, batch=128, tiny=False),
            Cell("train", data=FULL, batch=512, how=NO_DROPOUT, tiny=False),
        ),
    ),
    Part(
        "torch-more",
        "torch_side",
        80,
        (
            Cell("train", batch=128, how="grouped", needs=8, tiny=False),
            Cell("train", data=FULL, batch=128, how=f"dynamic+{NO_DROPOUT}", needs=8, tiny=False),
            Cell("train", "xlm-roberta-base", how="grouped", needs=8, tiny=False),
            Cell("eval", data=FULL, how="grouped", needs=8, tiny=False),
            Cell("train", batch=512, how="grouped", needs=8, tiny=False),
            Cell("train", "xlm-roberta-base", FULL, how="dynamic", needs=8, tiny=False),
            Cell("train", data=FULL, batch=128, how="dynamic", needs=8, tiny=False),
            Cell("train", data=FULL, batch=512, how=f"dynamic+{NO_DROPOUT}", needs=12, tiny=False),
        ),
    ),
    Part(
        "choices",
        "flaxfer_side",
        100,
        (
            Cell("profile", data=FULL),
            Cell("train", data=FULL, how=HASH, tiny=False),
            Cell("train", how=NO_DROPOUT, tiny=False),
            Cell("train", how=f"{NO_DROPOUT}+{XLA}", tiny=False),
            Cell("train", data=FULL, how=f"{NO_DROPOUT}+{XLA}", tiny=False),
            Cell("train", how=HASH),
        ),
    ),
)
"""Parts by value: what is asked first comes first, since a slow machine ends before the last."""


def part(name: str) -> Part:
    """Return the part of a name."""
    return next(part for part in PARTS if part.name == name)
