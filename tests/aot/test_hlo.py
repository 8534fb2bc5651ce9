"""The parser, on short programs whose values are counted by hand."""

from __future__ import annotations

import pytest

from flaxfer.aot import hlo
from tests.aot.helpers import FUSION


def test_instructions_have_shapes_operands_and_cycles() -> None:
    module = hlo.parse(FUSION)
    assert module.entry == "main.1" and set(module.computations) == {"fused", "main.1"}
    entry = module.computations["main.1"]
    assert list(entry) == ["x.1", "w.1", "fusion.1"]
    fusion = entry["fusion.1"]
    assert (fusion.opcode, fusion.operands, fusion.root) == ("fusion", ("x.1", "w.1"), True)
    assert fusion.bytes == 8 * 16 * 2 + 3 * 4
    assert (fusion.cycles, entry["x.1"].cycles) == (1234, None)
    assert fusion.called() == "fused"
    assert fusion.op_name == "jit(train_step)/transpose(jvp())/dot_general"
    assert [x.name for x in module.inner(fusion)][-1] == "both"
    assert module.computations["fused"]["three"].literal == "{1, 2, 3}"


def test_stacks_are_read_from_their_tables() -> None:
    module = hlo.parse(FUSION)
    step = ("/src/flaxfer/training/step.py", "make_train_step.<locals>.train_step")
    layer = ("/src/flaxfer/models/layers.py", "FeedForward.__call__")
    assert module.frames == {1: (step,), 2: (step, layer)}
    # Other versions of XLA write 0 for no parent, and else the number of the parent.
    plain = FUSION.replace("parent_frame_id=1", "parent_frame_id=0")
    plain = plain.replace("parent_frame_id=2", "parent_frame_id=1")
    assert hlo.parse(plain).frames == module.frames


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        ("f32[]", [4]),
        ("pred[3,5]{1,0:T(8,128)(4,1)}", [15]),
        ("(s32[2]{0}, (u8[7], bf16[2,2]))", [8, 7, 8]),
        ("f8e4m3fn[4]", [4]),
        ("s4[10]", [5]),
        ("c64[2]", [16]),
        ("s32[<=6]", [24]),
        ("token[]", [0]),
    ],
)
def test_bytes_of_a_shape(shape: str, sizes: list[int]) -> None:
    assert hlo.array_bytes(shape) == sizes


@pytest.mark.parametrize(
    ("groups", "size"),
    [
        ("{{0,2,4},{1,3,5}}", 3),
        ("[2,4]<=[8]", 4),
        ("mesh['data'=2,'fsdp'=4,'tensor'=1] {'fsdp'}", 4),
        ("mesh['data'=2,'fsdp'=4,'tensor'=1] {'data','fsdp'}", 8),
        ("{}", 16),
    ],
)
def test_group_size_of_a_collective(groups: str, size: int) -> None:
    instruction = hlo.Instruction("a", "all-reduce", "f32[1]", (), f", replica_groups={groups}, x")
    assert hlo.group_size(instruction, 16) == size


LOOP = """\
%condition (arg.1: (s32[], f32[4])) -> pred[] {
  %five = s32[]{:T(128)} constant(5)
  %arg.1 = (s32[]{:T(128)}, f32[4]{0}) parameter(0)
  %counter = s32[]{:T(128)} get-tuple-element(%arg.1), index=0
  ROOT %lt = pred[]{:T(512)} compare(%counter, %five), direction=LT
}

%body (arg.2: (s32[], f32[4])) -> (s32[], f32[4]) {
  ROOT %arg.2 = (s32[]{:T(128)}, f32[4]{0}) parameter(0)
}

ENTRY %main (start: (s32[], f32[4])) -> (s32[], f32[4]) {
  %start = (s32[]{:T(128)}, f32[4]{0}) parameter(0)
  ROOT %loop = (s32[]{:T(128)}, f32[4]{0}) while(%start), condition=%condition, body=%body
}
"""


def test_trip_count_of_a_scan() -> None:
    def count(text: str) -> int | None:
        module = hlo.parse(text)
        return module.trip_count(module.computations["main"]["loop"])

    assert count(LOOP) == 5
    assert count(LOOP.replace("body=%body", 'body=%body, x={"known_trip_count":{"n":"7"}}')) == 7
    assert count(LOOP.replace("direction=LT", "direction=NE")) is None
