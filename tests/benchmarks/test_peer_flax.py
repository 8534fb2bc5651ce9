"""Counts of the Flax peer; its loops need transformers 4.57 and are not run here."""

from __future__ import annotations

import numpy as np

from benchmarks import peer_flax

PROGRAM = """HloModule jit_train_step, is_scheduled=true

%fused (p: f32[8]) -> f32[8] {
  ROOT %a = f32[8] add(p, p), backend_config={"estimated_cycles":"1000"}
}

ENTRY %main.1 (p: f32[8]) -> f32[8] {
  %b = f32[8] fusion(p), calls=%fused, backend_config={"estimated_cycles":"30","x":{"y":"1"}}
  %c = f32[8] copy(b)
  ROOT %d = f32[8] fusion(c), calls=%fused, backend_config={"estimated_cycles":"4"}
}

%after (p: f32[8]) -> f32[8] {
  ROOT %e = f32[8] add(p, p), backend_config={"estimated_cycles":"500"}
}
"""


def test_cycles_are_those_of_the_entry_computation() -> None:
    assert peer_flax.estimated_cycles(PROGRAM) == 34


def test_batches_repeat_in_training_and_end_in_evaluation() -> None:
    data = {"labels": np.arange(5) * 10}
    order = np.array([4, 3, 2, 1, 0])
    assert peer_flax.batch_of(data, order, 1, 3)["labels"].tolist() == [10, 0, 40]
    assert peer_flax.batch_of(data, order, 1, 3, wrap=False)["labels"].tolist() == [10, 0]


def test_sizes_are_examples_tokens_and_slots() -> None:
    mask = np.array([[1, 1, 1, 0], [1, 0, 0, 0]])
    assert peer_flax.sizes({"attention_mask": mask}) == (2, 4, 8)
