"""Costs of short programs, against sums made by hand."""

from __future__ import annotations

import pytest

from flaxfer.aot import estimate, hlo
from flaxfer.aot.topology import Topology, parse
from tests.aot.helpers import FUSION

FOUR = parse("v5e:4")
V5E = FOUR.chip


def cost(body: str, topology: Topology = FOUR, other: str = "") -> estimate.Cost:
    """Estimate an ENTRY computation of some lines, after `other` computations."""
    text = "\n".join(["", other, "ENTRY %main () -> f32[] {", *body.strip("\n").splitlines(), "}"])
    return estimate.estimate(hlo.parse(text), topology)


def cycles_line(name: str, cycles: int, operands: str = "%x") -> str:
    estimated = f'{{"estimated_cycles":"{cycles}"}}'
    return f"  %{name} = f32[8]{{0}} fusion({operands}), calls=%none, c={estimated}"


MEGABYTES = "f32[1024,1024]{1,0}"
MIB4 = 4 * 2**20


def test_clocks_follow_from_the_calibration() -> None:
    assert 2 * 8192**3 / V5E.peak == pytest.approx(5.58e-3, rel=1e-3)
    assert 9_557_312 / V5E.clock == pytest.approx(5.58e-3, rel=1e-3)
    v6e = parse("v6e:1").chip
    assert 2_977_840 / v6e.clock == pytest.approx(1.20e-3, rel=5e-3)
    assert parse("v5p:1").chip.clock == pytest.approx(1.94e9, rel=1e-2)


def test_compiler_cycles_add_up_by_part_and_direction() -> None:
    total = estimate.estimate(hlo.parse(FUSION), FOUR)
    assert total.cycles() == total.cycles("compiler") == 1234
    assert total.parts() == {("feed_forward", "backward"): 1234}
    (largest,) = estimate.top(total, hlo.parse(FUSION), 5)
    assert (largest["cycles"], largest["runs"], largest["instruction"]) == (1234, 1, "fusion.1")
    assert largest["shape"] == "bf16[8,16] and 1 more"


def test_instructions_without_an_estimate_count_by_bytes() -> None:
    total = cost(f"""
  %x = {MEGABYTES} parameter(0)
  %index = s32[8]{{0}} parameter(1)
  %y = {MEGABYTES} scatter(%x, %index)
  %z = f32[8,1024]{{1,0}} gather(%x, %index)
""")
    scatter, gather = 2 * MIB4 + 32, 2 * 8 * 1024 * 4
    assert total.cycles("modelled") == pytest.approx((scatter + gather) / V5E.bandwidth * V5E.clock)
    assert total.cycles("compiler") == 0


def test_a_loop_counts_by_its_iterations() -> None:
    body = "%body (a: f32[8]) -> f32[8] {\n" + cycles_line("work", 100) + "\n}\n"
    condition = (
        "%cond (b: f32[8]) -> pred[] {\n  %n = s32[] constant(6)\n"
        "  ROOT %lt = pred[] compare(%i, %n), direction=LT\n}\n"
    )
    loop = "  %x = f32[8]{0} while(%start), condition=%cond, body=%body"
    total = cost(loop, other=body + condition)
    assert total.cycles("compiler") == 600
    assert [(x.cycles, x.item.name, x.runs) for x in total.spent] == [(600, "work", 6)]
    unknown = cost(loop, other=body + condition.replace("LT", "NE"))
    assert unknown.cycles("compiler") == 100
    assert unknown.warnings == {"x: trip count unknown, counted as 1"}
    assert cost(loop, other=body + condition.replace("constant(6)", "constant(0)")).cycles() == 0


GATHER = "replica_groups={{0,1,2,3}}, dimensions={0}"


def gather_cycles(size: int, n: int = 4) -> float:
    return size * (n - 1) / n / V5E.link * V5E.clock


def test_synchronous_collectives_are_exposed() -> None:
    total = cost(f"""
  %x = f32[256,1024]{{1,0}} parameter(0)
  %g = {MEGABYTES} all-gather(%x), channel_id=1, {GATHER}
  %r = {MEGABYTES} all-reduce(%g), channel_id=2, {GATHER}
""")
    assert total.cycles("exposed") == pytest.approx(
        3 * gather_cycles(MIB4)
    )  # A reduction goes around twice.
    kinds = {kind: (c.count, c.bytes, c.asynchronous) for kind, c in total.collectives.items()}
    assert kinds == {"all-gather": (1, MIB4, 0), "all-reduce": (1, MIB4, 0)}
    assert set(total.parts()) == {("collectives", "")}


def test_a_small_collective_takes_the_latency_of_its_hops() -> None:
    total = cost(f"  %x = f32[] all-reduce(%y), {GATHER}")
    assert total.cycles("exposed") == pytest.approx(2 * estimate.HOP * V5E.clock)
    alone = cost("  %x = f32[] all-reduce(%y), replica_groups={{0},{1},{2},{3}}")
    assert alone.cycles("exposed") == 0


def test_an_update_does_not_wait_for_what_has_begun() -> None:
    total = cost(
        f"""
  %x = f32[256,1024]{{1,0}} parameter(0)
  %s = ((f32[256,1024]{{1,0}}), {MEGABYTES}) async-start(%x), calls=%wrapped
{cycles_line("first", 700)}
  %u = ((f32[256,1024]{{1,0}}), {MEGABYTES}) async-update(%s)
{cycles_line("second", 800)}
  %d = {MEGABYTES} async-done(%u)
""",
        other=f"%wrapped (p: f32[256,1024]) -> f32[1024,1024] {{\n"
        f"  %p = f32[256,1024]{{1,0}} parameter(0)\n"
        f"  ROOT %g = {MEGABYTES} all-gather(%p), channel_id=1, {GATHER}\n}}",
    )
    assert total.cycles("exposed") == pytest.approx(gather_cycles(MIB4) - 700 - 800)


@pytest.mark.parametrize("work", [1_000, 30_000, 1_000_000])
def test_work_between_start_and_done_hides_a_collective(work: int) -> None:
    total = cost(f"""
  %x = f32[256,1024]{{1,0}} parameter(0)
  %s = (f32[256,1024]{{1,0}}, {MEGABYTES}) all-gather-start(%x), channel_id=1, {GATHER}
{cycles_line("work", work)}
  %d = {MEGABYTES} all-gather-done(%s)
""")
    assert total.cycles("exposed") == pytest.approx(max(0, gather_cycles(MIB4) - work))
    assert total.cycles("compiler") == work
    assert total.collectives["all-gather"].asynchronous == 1
    assert total.collectives["all-gather"].bytes == MIB4


def test_a_collective_split_into_fusions_counts_once() -> None:
    inner = "".join(
        f"%{name} (p: f32[256,1024]) -> f32[1024,1024] {{\n  %p.{name} = f32[256,1024]{{1,0}} "
        f"parameter(0)\n  ROOT %g.{name} = {MEGABYTES} all-gather(%p.{name}), channel_id=9, "
        f"{GATHER}\n}}\n"
        for name in ("begin", "middle", "end")
    )
    total = cost(
        f"""
  %x = f32[256,1024]{{1,0}} parameter(0)
  %async-collective-start = ({MEGABYTES}, u32[]) fusion(%x), calls=%begin
  %work = ({MEGABYTES}, u32[]) fusion(%x), calls=%middle, c={{"estimated_cycles":"700"}}
  %async-collective-done = {MEGABYTES} fusion(%work), calls=%end
""",
        other=inner,
    )
    gathered = total.collectives["all-gather"]
    assert (gathered.count, gathered.bytes, gathered.asynchronous) == (1, MIB4, 1)
    assert total.cycles("compiler") == 700
    assert total.cycles("exposed") == pytest.approx(gather_cycles(MIB4) - 700)


def test_a_fused_reduce_scatter_counts_the_unreduced_array() -> None:
    inner = f"""%all-reduce-scatter.3 (p: f32[1024,1024]) -> f32[256,1024] {{
  %p = {MEGABYTES} parameter(0)
  %r = {MEGABYTES} all-reduce(%p), channel_id=1, replica_groups={{{{0,1,2,3}}}}
  ROOT %s = f32[256,1024]{{1,0}} dynamic-slice(%r, %i), dynamic_slice_sizes={{256,1024}}
}}
"""
    body = f"""
  %x = {MEGABYTES} parameter(0)
  %f = f32[256,1024]{{1,0}} fusion(%x), kind=kCustom, calls=%all-reduce-scatter.3
"""
    total = cost(body, other=inner)
    assert list(total.collectives) == ["reduce-scatter"]
    assert total.collectives["reduce-scatter"].bytes == MIB4
    assert total.cycles("exposed") == pytest.approx(gather_cycles(MIB4))


def test_an_asynchronous_copy_costs_the_time_that_no_work_hides() -> None:
    total = cost(f"""
  %x = {MEGABYTES} parameter(0)
  %s = ({MEGABYTES}, {MEGABYTES}, u32[]) copy-start(%x)
{cycles_line("work", 5_000)}
  %d = {MEGABYTES} copy-done(%s)
""")
    assert total.cycles("modelled") == pytest.approx(MIB4 / V5E.bandwidth * V5E.clock - 5_000)
    assert total.parts()["waits for copies", ""] == pytest.approx(total.cycles("modelled"))


CALL = f'  %k.1 = {MEGABYTES} custom-call(%x), custom_call_target="tpu_custom_call", config='


def test_a_kernel_counts_by_the_cost_it_declares() -> None:
    def declared(flops: int, size: int) -> estimate.Cost:
        return cost(
            f'  %x = {MEGABYTES} parameter(0)\n{CALL}{{"cost_estimate":{{"flops":"{flops}",'
            f'"transcendentals":"0","bytes_accessed":"{size}"}}}}'
        )

    overhead = estimate.KERNEL_OVERHEAD
    busy = declared(10**12, 10**6)
    assert busy.cycles("modelled") == pytest.approx((10**12 / V5E.peak + overhead) * V5E.clock)
    moving = declared(10**6, 10**9)
    assert moving.cycles("modelled") == pytest.approx(
        (10**9 / V5E.bandwidth + overhead) * V5E.clock
    )
    assert busy.warnings == moving.warnings == set()


def test_splash_attention_counts_by_its_source() -> None:
    """Of 2 x 4 x 512 x 512 scores: two products over 64 of 128 lanes, ten vector operations."""
    total = cost("""
  %q = bf16[2,4,512,64]{3,2,1,0} parameter(0)
  %s = s32[2,512]{1,0} parameter(1)
  %splash_mha_fwd_segmented.3 = bf16[2,4,512,64]{3,2,1,0} custom-call(%q, %q, %q, %s), \
custom_call_target="tpu_custom_call"
""")
    scores = 2 * 4 * 512 * 512
    seconds = 2 * 2 * scores * 128 / V5E.peak + estimate.KERNEL_OVERHEAD
    assert total.cycles("modelled") == pytest.approx(seconds * V5E.clock + 10 * scores / 4096)
    assert not total.warnings


@pytest.mark.parametrize("name", estimate.SHORT_ROWS)
def test_attention_of_short_rows_counts_by_its_schedule(name: str) -> None:
    """Beside what the kernel declares, vector operations for each of its exponentials."""
    call = CALL.replace("%k.1", f"%{name}.4")
    total = cost(
        f'  %x = {MEGABYTES} parameter(0)\n{call}{{"cost_estimate":{{"flops":"{10**9}",'
        '"transcendentals":"40960","bytes_accessed":"8"}}'
    )
    seconds = 10**9 / V5E.peak + estimate.KERNEL_OVERHEAD
    operations = 10 * estimate.SHORT_ROWS[name]
    assert total.cycles("modelled") == pytest.approx(seconds * V5E.clock + operations)
    assert not total.warnings


def test_a_kernel_without_a_cost_counts_by_its_bytes_with_a_warning() -> None:
    total = cost(f"  %x = {MEGABYTES} parameter(0)\n{CALL}{{}}")
    seconds = 2 * MIB4 / V5E.bandwidth + estimate.KERNEL_OVERHEAD
    assert total.cycles("modelled") == pytest.approx(seconds * V5E.clock)
    (warning,) = total.warnings
    assert "kernel k (tpu_custom_call) has no cost_estimate" in warning


def test_custom_calls_that_reinterpret_bits_are_free() -> None:
    total = cost('  %x = u64[2]{0} custom-call(%a, %b), custom_call_target="X64Combine"')
    assert total.cycles() == 0 and not total.warnings


def test_gpus_have_collectives_and_no_time() -> None:
    total = cost(
        f"  %g = {MEGABYTES} all-gather(%x), channel_id=1, {GATHER}\n"
        '  %c = f32[4]{0} custom-call(%g), custom_call_target="__cublas$gemm"',
        parse("h100:4"),
    )
    assert total.collectives["all-gather"].count == 1
    assert total.cycles() == 0 and not total.warnings
