"""Interface of task types (`flaxfer.tasks`) for reading, tokenising and packing their examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerFast

    from flaxfer.config import Source, Task
    from flaxfer.data.encode import Sequences
    from flaxfer.data.examples import Examples, LabelColumn, Texts
    from flaxfer.data.labels import Labels
    from flaxfer.data.packing import Batch, Layout
    from flaxfer.data.tables import Column, Problems
    from flaxfer.data.tokenize import Tokenized


class TaskType(Protocol):
    """Members of `flaxfer.tasks.base.TaskType` used by this package; documented there."""

    name: str
    roles: tuple[str, ...]
    per_token: bool
    cluster_text: int

    def read_texts(
        self, columns: Mapping[str, Column], source: Source, records: Sequence[int]
    ) -> tuple[Texts, Texts | None]: ...

    def text_problems(
        self, columns: Mapping[str, Column], source: Source, records: Sequence[int]
    ) -> Problems: ...

    def read_labels(
        self, columns: Mapping[str, Column], source: Source, task: Task, records: Sequence[int]
    ) -> Labels: ...

    def label_column(self, values: Sequence[Any]) -> LabelColumn: ...

    def encode(
        self,
        examples: Examples,
        tokenizer: PreTrainedTokenizerFast,
        max_length: int,
        doc_stride: int,
    ) -> Sequences: ...

    def encoding_settings(
        self, tokenizer: PreTrainedTokenizerFast, doc_stride: int
    ) -> list[Any]: ...

    def reference(self, examples: Examples) -> tuple[Any, ...]: ...

    def train_examples(self, data: Tokenized) -> int: ...

    def micro_batches(
        self, data: Tokenized, indices: np.ndarray, parts: int
    ) -> Sequence[np.ndarray]: ...

    def targets(self, data: Tokenized, layout: Layout) -> Batch: ...
