"""Parameters of stages: those that they start from, and those of trained stages."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import numpy as np

from flaxfer.data.packing import REHEARSED
from flaxfer.models import pretrained
from flaxfer.runtime import sharding
from flaxfer.runtime.trees import Params
from flaxfer.study.plan import stage_data
from flaxfer.tasks import task_type
from flaxfer.tasks.models import model_spec
from flaxfer.training import handover
from flaxfer.training.data import StudyData
from flaxfer.training.record import StageRecord
from flaxfer.training.stage import StageSpec
from flaxfer.training.vocabulary import EmbeddingRows, recover_rows, with_word_table, word_table

Reader = Callable[[StageRecord], Params]


class Starts:
    """Parameters at the start and at the end of a study's stages.

    Attributes:
      data: Data of the study.
      mesh: Mesh that parameters are placed on.
    """

    def __init__(self, data: StudyData, mesh: jax.sharding.Mesh):
        self.data, self.mesh = data, mesh
        self._ids = data.ids()
        self._pretrained: dict[str, Params] = {}

    def reader(self) -> Reader:
        """Return a function from the record of a trained stage to its best parameters, placed.

        It reads each checkpoint once, and holds the parameters as long as it exists.
        """
        return functools.cache(lambda record: record.best_params(self.data.encoder, self.mesh))

    def pretrained(self, head: str) -> Params:
        """Return the pretrained encoder and the pretrained parts of a head.

        The word embedding is cut to the ids that a stage may need.
        """
        if head not in self._pretrained:
            params = pretrained.load_pretrained(self.data.folder, self.data.encoder, head=head)
            self._pretrained[head] = with_word_table(params, word_table(params)[self._ids])
        return self._pretrained[head]

    def params(self, spec: StageSpec) -> Params:
        """Return the parameters that a stage starts from, see `start`."""
        return self.start(spec, self.reader())[0]

    def start(self, spec: StageSpec, read: Reader) -> tuple[Params, EmbeddingRows]:
        """Return the parameters that a stage starts from, and its first embedding rows of any ids.

        The head of the previous stage is kept if it answers the same question. Otherwise it is new,
        except for parts that were pretrained (BERT's pooler).
        """
        stage = stage_data(self.data, spec)
        seed = spec.attempt_seed()
        model = spec.trained_model
        if spec.parent is None and spec.start == "random":
            fresh = model.random_params(seed)
        else:
            fresh = {"head": model.random_head(seed), **model.random_adapters(seed)}
        form = task_type(spec.settings.task)
        fresh["head"] = form.start_head(spec.settings, stage.train, fresh["head"])
        head = spec.model.head
        if spec.parent is None:
            start = self.pretrained(head) if spec.start == "pretrained" else fresh
            rows = self._first_rows(spec)
        else:
            start = read(spec.parent.record)
            rows = functools.partial(self.rows, spec.parent, read)
            if stage.rehearsal is not None:
                fresh[REHEARSED] = start["head"]
            start = handover.hand_over(
                start,
                spec.model.encoder.family,
                spec.parent.settings.task,
                spec.settings.task,
                lambda: self.pretrained(head).get("head", {}),
            )
        start = with_word_table(start, rows(stage.vocabulary.ids))
        return handover.merged(fresh, start, model.param_shapes()), rows

    def rows(self, spec: StageSpec, read: Reader, ids: np.ndarray) -> np.ndarray:
        """Return the embedding rows of ids after a trained stage."""
        lineage = [stage.record for stage in spec.lineage]
        return recover_rows(ids, lineage, self._first_rows(spec.lineage[0]), read)

    def scoring_params(self, spec: StageSpec, read: Reader, ids: np.ndarray) -> Params:
        """Return the best parameters of a trained stage with the embedding rows of ids, placed."""
        return self.with_rows(read(spec.record), self.rows(spec, read, ids))

    def with_rows(self, params: Params, table: np.ndarray) -> Params:
        """Return parameters with another word embedding, placed on the mesh."""
        params = with_word_table(params, table)
        placed: Params = jax.device_put(params, sharding.tree_shardings(params, self.mesh))
        return placed

    def _first_rows(self, spec: StageSpec) -> EmbeddingRows:
        """Return the embedding rows that a stage without a previous one starts from."""

        def rows(ids: np.ndarray) -> np.ndarray:
            if spec.start == "random":  # The whole table: a row depends on its id alone.
                model = model_spec(self.data.encoder, spec.settings.task)
                return word_table(model.random_params(spec.attempt_seed()))[ids]
            table = word_table(self.pretrained(spec.model.head))
            return table[np.searchsorted(self._ids, ids)]

        return rows
