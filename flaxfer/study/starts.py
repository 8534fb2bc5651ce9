"""The parameters that stages start from, and those of trained stages."""

from __future__ import annotations

import jax
import numpy as np

from flaxfer.data.packing import REHEARSED
from flaxfer.models import pretrained
from flaxfer.runtime import sharding
from flaxfer.runtime.trees import Params
from flaxfer.tasks.models import model_spec
from flaxfer.training import handover
from flaxfer.training.data import StudyData
from flaxfer.training.record import StageRecord
from flaxfer.training.stage import StageSpec
from flaxfer.training.vocabulary import (
    EmbeddingRows,
    Vocabulary,
    recover_rows,
    with_word_table,
    word_table,
)


class Starts:
    """Parameters at the start and at the end of a study's stages.

    Args:
      data: of the study.
      mesh: of the devices.
    """

    def __init__(self, data: StudyData, mesh: jax.sharding.Mesh):
        self._data, self._mesh = data, mesh
        self._ids = data.ids()
        self._pretrained: dict[str, Params] = {}

    def pretrained(self, head: str) -> Params:
        """Return the pretrained encoder, and what the weights hold of a head.

        The word embedding has the rows of the ids that a stage may need, and no others.
        """
        if head not in self._pretrained:
            params = pretrained.load_pretrained(self._data.folder, self._data.encoder, head=head)
            table = word_table(params)[self._ids]
            self._pretrained[head] = with_word_table(params, table)
        return self._pretrained[head]

    def params(self, spec: StageSpec) -> Params:
        """Return the parameters that a stage starts from.

        The head of the stage before is kept if it answers the same question. Otherwise it is new,
        but for parts that were pretrained (BERT's pooler).
        """
        stage = self._data.stage(spec.name, after_intermediate=spec.parent is not None)
        fresh = spec.model.random_params(spec.attempt_seed())
        if spec.settings.train.output_bias == "mean":
            mean = stage.train.label.mean(dtype=np.float32)
            fresh["head"]["output"]["bias"] = np.full(1, mean, np.float32)
        ids, head = stage.vocabulary.ids, spec.model.head
        if spec.parent is None:
            start = self.pretrained(head) if spec.start == "pretrained" else fresh
            return handover.merged(fresh, with_word_table(start, self._first_rows(spec)(ids)))
        start = self.best_params(spec.parent.record)
        if stage.rehearsal is not None:
            fresh[REHEARSED] = start["head"]
        table = self.rows(spec.parent, ids, start)
        start = handover.hand_over(
            start,
            spec.model.encoder.family,
            spec.parent.settings.task,
            spec.settings.task,
            lambda: self.pretrained(head).get("head", {}),
        )
        return handover.merged(fresh, with_word_table(start, table))

    def best_params(self, record: StageRecord) -> Params:
        """Return the best parameters of a trained stage, placed on the mesh."""
        return record.best_params(self._data.encoder, self._mesh)

    def scoring_params(self, spec: StageSpec, vocabulary: Vocabulary) -> Params:
        """Return the best parameters of a trained stage with the rows of a vocabulary, placed."""
        params = self.best_params(spec.record)
        return self.with_rows(params, self.rows(spec, vocabulary.ids, params))

    def with_rows(self, params: Params, table: np.ndarray) -> Params:
        """Return parameters with another word embedding, placed on the mesh."""
        params = with_word_table(params, table)
        placed: Params = jax.device_put(params, sharding.tree_shardings(params, self._mesh))
        return placed

    def rows(self, spec: StageSpec, ids: np.ndarray, params: Params) -> np.ndarray:
        """Return embedding rows as a trained stage left them; `params` are its best ones."""
        last = spec.record

        def params_of(record: StageRecord) -> Params:
            return params if record == last else self.best_params(record)

        lineage = [stage.record for stage in spec.lineage]
        return recover_rows(ids, lineage, self._first_rows(spec.lineage[0]), params_of)

    def start_rows(self, spec: StageSpec, ids: np.ndarray) -> np.ndarray:
        """Return embedding rows as a stage starts with them."""
        if spec.parent is None:
            return self._first_rows(spec)(ids)
        return self.rows(spec.parent, ids, self.best_params(spec.parent.record))

    def _first_rows(self, spec: StageSpec) -> EmbeddingRows:
        """Return the embedding rows of a stage that no other precedes."""

        def rows(ids: np.ndarray) -> np.ndarray:
            if spec.start == "random":
                # A row depends on its id, whichever of them a stage uses.
                task = spec.settings.task
                whole = model_spec(self._data.encoder, task)
                return word_table(whole.random_params(spec.attempt_seed()))[ids]
            table = word_table(self.pretrained(spec.model.head))
            return table[np.searchsorted(self._ids, ids)]

        return rows
