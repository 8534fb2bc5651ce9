"""The check for GPUs: its plan, its clock, its processes, and the section that reports it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.gpu_check import __main__ as command
from benchmarks.gpu_check import peaks, plan, records, report, shapes, study
from benchmarks.gpu_check.records import Child


def child(tmp_path: Path, part: str = "flaxfer", seconds: float = 60.0) -> Child:
    return Child(part, seconds, tmp_path / "records.jsonl", tiny=False, cache=tmp_path / "cache")


def names_of(tmp_path: Path) -> dict[str, str]:
    return {r["name"]: r["status"] for r in records.read(tmp_path / "records.jsonl")}


def test_cells_have_names_of_their_own_and_known_models() -> None:
    for part in plan.PARTS:
        names = [cell.name for cell in part.cells]
        assert len(names) == len(set(names))
        assert all(cell.model in shapes.MODELS for cell in part.cells)
        assert part.least <= part.seconds
    assert "train-bert-base-full-32" in [cell.name for cell in plan.part("flaxfer").cells]


def test_the_limits_of_all_parts_are_near_the_limit_of_the_check() -> None:
    assert command.SECONDS < 480
    # Parts end before their limits where compiling is fast, so the sum may be larger.
    assert sum(part.seconds for part in plan.PARTS) < 2 * command.SECONDS


@pytest.mark.parametrize(
    ("device", "peak"),
    [
        ("NVIDIA H200", 989e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA GeForce RTX 4090", 165.2e12),
        ("Tesla T4", None),
        ("cpu", None),
    ],
)
def test_peaks_by_the_names_of_devices(device: str, peak: float | None) -> None:
    assert peaks.peak(device) == peak


def test_examples_have_the_lengths_of_sts() -> None:
    corpus = shapes.corpus("bert-base", "stsb", tiny=False)
    # The mean pair of the training split has 27.8 tokens, the longest at most 128.
    assert corpus.lengths.mean() == pytest.approx(27.8, abs=0.5)
    assert len(corpus.ids) == 5749 and corpus.lengths.max() <= 128
    assert corpus.used < 30522 and max(ids.max() for ids in corpus.ids) < corpus.used
    assert min(ids.min() for ids in corpus.ids) >= 2  # 0 and 1 are padding of either family.
    full = shapes.corpus("xlm-roberta-base", "full", tiny=False, examples=3)
    assert full.lengths.tolist() == [512] * 3 and full.length == 512


@pytest.mark.parametrize("model", shapes.MODELS)
def test_both_libraries_read_the_sizes(model: str) -> None:
    from transformers import AutoConfig

    from flaxfer.models.families import read_config

    settings = shapes.settings(model, tiny=False)
    ours = read_config(settings)
    theirs = AutoConfig.for_model(**settings)
    assert (ours.hidden_size, ours.num_layers, ours.num_heads) == (768, 12, 12)
    assert ours.vocab_size == theirs.vocab_size == settings["vocab_size"]
    assert ours.max_length == 512 and ours.attention_dropout == 0.1
    assert (ours.layer_norm_eps, ours.pad_token_id) == (
        theirs.layer_norm_eps,
        theirs.pad_token_id,
    )


def test_cells_are_recorded_at_once_and_their_failures_end_nothing(tmp_path: Path) -> None:
    first, second, third = plan.part("flaxfer").cells[:3]
    seen = []

    def measure(cell: plan.Cell) -> dict[str, Any]:
        seen.append(names_of(tmp_path))
        if cell == first:
            raise MemoryError("too large\nby far")
        if cell == second:
            raise ValueError("a fault")
        return {"examples_per_s": 1.0}

    child(tmp_path).run_cells(measure, "flaxfer", (MemoryError,))
    assert seen[2] == {first.name: "skipped", second.name: "failed"}
    assert names_of(tmp_path)[third.name] == "ok"
    lines = records.read(tmp_path / "records.jsonl")
    assert [line.get("reason") for line in lines[:3]] == [
        "MemoryError: too large",
        "ValueError: a fault",
        None,
    ]
    assert lines[2]["side"] == "flaxfer" and lines[2]["cell"]["what"] == third.what


def test_a_cell_without_enough_time_is_skipped_with_the_reason(tmp_path: Path) -> None:
    child(tmp_path, seconds=5.0).run_cells(lambda cell: {}, "flaxfer", ())
    lines = {line["name"]: line for line in records.read(tmp_path / "records.jsonl")}
    assert lines["matmul"]["status"] == "ok"  # It needs 3 s.
    assert lines["train-bert-base-full-32"]["status"] == "skipped"
    assert lines["train-bert-base-full-32"]["reason"] == (
        "5 s are left for the part, 15 are needed"
    )


def test_half_a_record_at_the_end_is_ignored(tmp_path: Path) -> None:
    file = tmp_path / "records.jsonl"
    records.append(file, {"part": "torch", "name": "a"})
    file.write_text(file.read_text() + '{"part": "to')
    assert records.read(file) == [{"part": "torch", "name": "a"}]
    file.write_text('{"part"\n{}\n')
    with pytest.raises(json.JSONDecodeError):
        records.read(file)


def part_of(monkeypatch: pytest.MonkeyPatch, code: str, **limits: Any) -> plan.Part:
    """Return a part whose process runs code instead of its module."""
    part = plan.Part("torch", "torch_side", **{"seconds": 30.0, "least": 0.0} | limits)
    start = command.subprocess.Popen

    def popen(words: list[str], **options: Any) -> Any:
        file = words[words.index("--out") + 1]
        return start([sys.executable, "-c", f"FILE = {file!r}\n{code}"], **options)

    monkeypatch.setattr(command.subprocess, "Popen", popen)
    monkeypatch.setattr(command, "GRACE", 0.0)
    return part


Runner = Callable[[plan.Part], dict[str, str]]


@pytest.fixture
def run_part(tmp_path: Path) -> Runner:
    def run(part: plan.Part) -> dict[str, str]:
        options = command.parse(["--out", str(tmp_path)])
        command.run(part, tmp_path / "records.jsonl", options, 60.0, {})
        return names_of(tmp_path)

    return run


RECORD = (
    'open(FILE, "a").write(\'{"part": "torch", "name": "matmul", "status": "ok", "took_s": 1}\\n\')'
)


def test_a_part_that_is_killed_leaves_its_records(
    monkeypatch: pytest.MonkeyPatch, run_part: Runner, tmp_path: Path
) -> None:
    cells = (plan.Cell("matmul"), plan.Cell("train"))
    code = f"{RECORD}\nimport time\ntime.sleep(60)"
    began = time.monotonic()
    names = run_part(part_of(monkeypatch, code, seconds=1.0, cells=cells))
    assert time.monotonic() - began < 10
    assert names == {"matmul": "ok", cells[1].name: "skipped"}
    assert records.read(tmp_path / "records.jsonl")[1]["reason"] == "the part's 1 s are over"


def test_a_part_that_breaks_fails(monkeypatch: pytest.MonkeyPatch, run_part: Runner) -> None:
    assert run_part(part_of(monkeypatch, "raise SystemExit(3)")) == {"torch": "failed"}


def test_a_part_of_checks_that_ends_well_adds_nothing(
    monkeypatch: pytest.MonkeyPatch, run_part: Runner
) -> None:
    assert run_part(part_of(monkeypatch, RECORD)) == {"matmul": "ok"}


def test_a_part_without_time_is_not_started(
    monkeypatch: pytest.MonkeyPatch, run_part: Runner, tmp_path: Path
) -> None:
    assert run_part(part_of(monkeypatch, RECORD, least=61.0)) == {"torch": "skipped"}
    reason = records.read(tmp_path / "records.jsonl")[0]["reason"]
    assert reason == "60 s of 470 s are left, the part needs 61"


def entry(part: str, name: str, status: str = "ok", **more: Any) -> dict[str, Any]:
    return {"part": part, "name": name, "status": status, "took_s": 1.0, **more}


@pytest.mark.parametrize(
    ("entries", "tiny", "code"),
    [
        ([entry("correctness", "parity bert")], False, 0),
        ([entry("correctness", "parity bert", "failed", reason="x")], False, 1),
        ([entry("torch", "train", "failed", side="torch", reason="x")], False, 0),
        ([entry("torch", "train", "failed", side="torch", reason="x")], True, 1),
        ([entry("flaxfer", "train", "failed", side="flaxfer", reason="x")], False, 1),
        ([entry("flaxfer", "train", "skipped", side="flaxfer", reason="x")], False, 0),
    ],
)
def test_exit_codes(
    entries: list[dict[str, Any]], tiny: bool, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.summarise(entries, ["correctness", "flaxfer", "torch"], tiny, 9.0) == code
    assert ("FAILED" if code else "ok after 9 s") in capsys.readouterr().out


def test_parts_that_run_again_forget_their_records(tmp_path: Path) -> None:
    file = tmp_path / "records.jsonl"
    for part in ("torch", "study"):
        records.append(file, entry(part, "a"))
    command.forget(file, ["torch"])
    assert [record["part"] for record in records.read(file)] == ["study"]


def test_differences_of_studies() -> None:
    wanted = {"steps": 9, "dev": {"pearson": 0.5}, "evaluations": [{"n": 3, "metrics": [0.1]}]}
    close = json.loads(json.dumps(wanted))
    close["evaluations"][0]["metrics"] = [0.10001]
    assert study.difference(close, wanted) == pytest.approx(1e-5)
    for changes in ({"steps": 8}, {"dev": {"pearson": 0.501}}, {"dev": {}}, {"evaluations": []}):
        with pytest.raises(study.Different):
            study.difference(wanted | changes, wanted)
    with pytest.raises(study.Different):
        study.difference({"dev": float("nan")}, {"dev": 0.5})


def timed(side: str, how: str, rate: float, **more: Any) -> dict[str, Any]:
    cell = {"what": "train", "model": "bert-base", "data": "stsb", "batch": 32, "how": how}
    figures = {"examples_per_s": rate, "useful_tokens_per_s": 30 * rate, "padding_share": 0.1}
    figures |= {"device": "NVIDIA H200"}
    return entry(side, f"train-{how}", side=side, cell=cell | {"seeds": 1}, **figures, **more)


ENTRIES = [
    entry("correctness", "parity bert", differences={"loss": 1e-7, "logits": 3e-6}),
    entry("correctness", "parity xlnet", "failed", reason="differs: loss by 1.00e+00"),
    entry("study", "resumed study", killed_after_step=10, largest_difference=0.0),
    timed("flaxfer", "", 3000.0, flops_per_s=6e14, mfu=0.6, compile_s=30.0, input_stall_share=0.01),
    timed("torch", "dynamic", 500.0, peak_flops_per_s=1e15, warmup_s=2.0),
    timed("torch", "grouped+compile", 2000.0, peak_flops_per_s=1e15, peak_device_bytes=2**31)
    | {"useful_tokens_per_s": 75_000.0},
]


def test_the_section_compares_with_the_fastest_peer() -> None:
    text = report.section(ENTRIES)
    assert text.startswith("## GPU: NVIDIA H200\n")
    assert "Checks of values passed: 2 of 3." in text
    assert "Largest difference in parity: 3.0e-06." in text
    assert "killed after step 10 and resumed differs by at most 0.0e+00." in text
    work = "| BERT-base, STS-B, batch 32 |"
    assert [line for line in text.splitlines() if line.startswith(work)] == [
        f"{work} flaxfer | 3,000 | 90,000 | 60.0% | 10.0% | 1.0% | 30.0 | – | 1.20 |",
        f"{work} Trainer, dynamic | 500 | 15,000 | 10.0% | 10.0% | – | 2.0 | – |  |",
        f"{work} Trainer, grouped, compile | 2,000 | 75,000 | 50.0% | 10.0% | – | – | 2.0 |  |",
    ]
    assert "- parity xlnet: failed, differs: loss by 1.00e+00\n" in text


def test_a_file_of_records_is_a_section(tmp_path: Path) -> None:
    assert report.sections(tmp_path) == []
    for record in ENTRIES:
        records.append(tmp_path / "gpu" / "h200.jsonl", record)
    assert report.sections(tmp_path) == [report.section(ENTRIES)]


def test_kernels_are_named_by_kind() -> None:
    # Its import takes seconds, which the other tests do not need.
    from benchmarks.gpu_check.flaxfer_side import kind_of

    kinds = {
        "nvjet_tst_128x256_64x4_1x2_h_bz_coopA_TNT": "matmul",
        "gemm_fusion_dot_12": "matmul",
        "cudnn_generated_fort_native_sdpa_sm90_flash_fprop": "attention",
        "loop_add_fusion_3": "elementwise",
        "input_reduce_fusion_2": "reduction",
        "MemcpyD2D": "copy",
        "input_scatter_fusion": "scatter or gather",
        "other": "other",
    }
    assert {name: kind_of(name) for name in kinds} == kinds


def test_flops_of_a_cell_are_those_of_its_examples() -> None:
    from benchmarks.gpu_check.flaxfer_side import work

    size = work(np.array([3, 4], np.int32))
    assert (size.sequences, size.tokens, size.pairs) == (2, 7.0, 25.0)


def test_a_wrong_kernel_is_a_mismatch(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.gpu_check import correctness

    figures = correctness.kernel(16, 2, scored=True)
    assert figures["kernel"] == "xla" and figures["differences"].keys() >= {"output", "scores"}
    right = correctness.cudnn

    def without_segments(*arrays: Any, **options: Any) -> Any:
        ones = np.ones_like(arrays[3])
        return right(*arrays[:3], ones, ones, *arrays[5:], **options)

    monkeypatch.setattr(correctness, "cudnn", without_segments)
    with pytest.raises(correctness.Mismatch, match=r"output by .*tolerance 0\.02"):
        correctness.kernel(16, 2, scored=False)


@pytest.mark.parametrize("value", [1.1e-5, float("nan")])
def test_a_quantity_beyond_its_tolerance_is_a_mismatch(value: float) -> None:
    from benchmarks.gpu_check import correctness

    wanted = {"loss": np.ones(1), "losses": np.ones(3)}
    results = {"loss": np.ones(1), "losses": np.array([1, 1 + value, 1])}
    with pytest.raises(correctness.Mismatch, match="losses of ten steps by"):
        correctness.compared(results, wanted)
    assert correctness.compared(wanted, wanted)["differences"] == {
        "loss": 0.0,
        "losses of ten steps": 0.0,
    }
