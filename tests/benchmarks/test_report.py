"""Tables, ratios and sentences from invented runs, as exact text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import common, quality, report, summary, tpu

COMMITTED = common.ROOT / common.RECORDS
MACHINE = {"cpu": "Test CPU", "features": ["avx2", "avx512f"], "cores": 2, "memory_gib": 8.0}


def run_of(label: str, what: str, number: int, rate: float, **more: Any) -> dict[str, Any]:
    return {
        "benchmark": "sts-minilm",
        "title": "STS-B English, all-MiniLM-L6-v2",
        "label": label,
        "what": what,
        "round": number,
        "examples_per_s": rate,
        "useful_tokens_per_s": 30 * rate,
        "padding_share": 0.25,
        "input_stall_share": 0.01,
        "compile_s": 9.0 - number,
        "start_s": 20.0 - 10 * number,
        "peak_rss_bytes": 3 * 2**29,
        "steps": 20 if label.startswith("flaxfer") else 12,
        "settings": {"cache": "warm" if number else "cold", "length": 128, "batch": 32},
        "versions": {"python": "3.12.1" if label.startswith("flaxfer") else "3.11.7"},
        "machine": MACHINE,
        "date": "2026-11-23T10:00:00+00:00",
        "git": "abc",
        **more,
    }


LIMIT = {"times_limit": 2.5}
RUNS = [
    run_of("flaxfer, float32", "train", 0, 100.0, **LIMIT),
    run_of("Trainer, float32", "train", 0, 50.0),
    run_of("flaxfer, float32", "train", 1, 120.0, **LIMIT),
    run_of("Trainer, float32", "train", 1, 40.0),
    run_of("flaxfer, float32", "eval", 0, 400.0),
    run_of("Trainer, float32", "eval", 0, 200.0),
]


def test_ratios_are_of_tokens_within_a_round() -> None:
    assert summary.ratios(RUNS, "Trainer, float32", "train") == [2.0, 3.0]
    assert summary.ratios(RUNS[:3], "Trainer, float32", "train") == [2.0]
    assert summary.ratios(RUNS, "Trainer, float32", "eval") == [2.0]
    longer = run_of("Trainer, float32", "train", 0, 50.0, useful_tokens_per_s=2000.0)
    assert summary.ratios([RUNS[0], longer], "Trainer, float32", "train") == [1.5]


@pytest.mark.parametrize(
    ("values", "digits", "expected"),
    [([3.0, 1.0, 2.0], 1, "2.0 (1.0–3.0)"), ([1500.0, 2500.0], 0, "2,000 (1,500–2,500)")],
)
def test_spread(values: list[float], digits: int, expected: str) -> None:
    assert summary.spread(values, digits) == expected
    assert summary.spread([]) == "–"


def test_speed_rows() -> None:
    rows = report.speed_table([run for run in RUNS if run["what"] == "train"]).splitlines()
    assert rows[2:] == [
        "| flaxfer, float32 | 110.0 (100.0–120.0) | 3,300 (3,000–3,600) | 25.0% | 1.0% | 1.50 "
        "| 9.0 | 20.0 | 10.0 | 2 |",
        "| Trainer, float32 | 45.0 (40.0–50.0) | 1,350 (1,200–1,500) | 25.0% | 1.0% | 1.50 "
        "| 9.0 | 20.0 | 10.0 | 2 |",
    ]


def test_a_run_without_a_cache_has_no_cold_start() -> None:
    run = run_of("Trainer, float32", "train", 0, 1.0)
    run["settings"]["cache"] = "none"
    assert summary.starts([run]) == ["–", "–", "20.0"]


def test_page_has_ratios_limit_machine_and_derived_seeds() -> None:
    page = report.page(RUNS, [])
    assert "| Trainer, float32 | 2.50 (2.00–3.00) | 2.00 (2.00–2.00) | 2, 1 |\n" in page
    assert (
        "Matmuls alone would allow 275.0 (250.0–300.0) examples/s; flaxfer's step takes "
        "2.50 (2.50–2.50) times as long.\n" in page
    )
    # 3 x 5749 examples at 110/s and 3 x 1500 + 1379 at 400/s are 171.4875 s.
    assert "| flaxfer, float32 | 21.0 |\n" in page
    assert (
        "Machine: Test CPU, 2 cores, 8.0 GiB. It has AVX-512 and no AMX, which would speed "
        "bfloat16 up. Versions: python 3.11.7 / 3.12.1. Commit abc; 2026-11-23." in page
    )
    assert "Training (at most 128 tokens an example; 12 to 20 steps a run):" in page
    assert [line for line in page.splitlines() if line.startswith("#")] == [
        "# Benchmarks",
        "## Speed",
        "## Speed on a CPU with AVX-512",
        "### STS-B English, all-MiniLM-L6-v2",
        "## How to repeat",
    ]


def test_seeds_per_hour_are_for_examples_of_equal_length() -> None:
    peer = [run_of("Trainer", "train", 0, 50.0, useful_tokens_per_s=3300.0), RUNS[5]]
    tokens = summary.tokens_per_example(RUNS)
    assert tokens == {"train": 30.0, "eval": 30.0}
    equal = [run_of("Trainer", "train", 0, 110.0), RUNS[5]]
    assert summary.seeds_per_hour(peer, tokens) == summary.seeds_per_hour(equal, tokens)


def test_the_best_peer_of_each_measurement_and_the_limit_have_rows() -> None:
    runs = [*RUNS, run_of("Other", "train", 0, 30.0), run_of("Other", "eval", 0, 320.0)]
    assert summary.best_peer(runs, "train") == "Trainer, float32"
    assert report.ratio_table(runs).splitlines()[2:] == [
        "| best peer (training: Trainer, float32; evaluation: Other) | 2.50 (2.00–3.00) "
        "| 1.25 (1.25–1.25) | 2, 1 |",
        "| Trainer, float32 | 2.50 (2.00–3.00) | 2.00 (2.00–2.00) | 2, 1 |",
        "| Other | 3.33 (3.33–3.33) | 1.25 (1.25–1.25) | 1, 1 |",
        "| matmuls alone | 0.40 (0.40–0.40) | – | 2, 0 |",
    ]


def test_each_kind_of_cpu_has_a_section() -> None:
    old = [run | {"machine": MACHINE | {"cpu": "Old CPU", "features": ["avx2"]}} for run in RUNS]
    page = report.page([*old, *RUNS], [])
    sections = page.split("## Speed on a CPU with ")
    assert [text.partition("\n")[0] for text in sections[1:]] == ["AVX-512", "AVX2"]
    assert "Test CPU" in sections[1] and "Old CPU" in sections[2]
    assert all(text.count("### STS-B English") == 1 for text in sections[1:])
    assert page.count("No peer of these runs has torch.compile") == 2
    compiled = [run_of("Trainer, float32, torch.compile", "train", 0, 60.0)]
    assert "No peer of these runs" not in report.page([*RUNS, *compiled], [])


def test_amx_is_mentioned_only_where_present() -> None:
    flags = ["avx2", "avx512f", "avx512_bf16", "amx_tile", "amx_bf16"]
    assert (
        summary.features(flags) == "It has AVX-512 with avx512_bf16 and AMX (amx_tile, amx_bf16)."
    )
    assert summary.features(["avx2"]).startswith("It has AVX2 and no AMX")


def aot(vocabulary: int, cycles: int) -> dict[str, Any]:
    """Return the report of `flaxfer aot` for one chip."""
    encoder = {"family": "xlm-roberta", "num_layers": 12, "hidden_size": 768}
    return {
        "topology": {"name": "v5e:1x1", "chips": 1},
        "mesh": {"data": 1, "fsdp": 1, "tensor": 1},
        "versions": {"libtpu": "1"},
        "estimated_cycles": cycles + 1,
        "cycles_by_source": {"compiler": cycles},
        "shapes": {
            "train": {"token_BT": [2, 32, 128]},
            "bucket_sizes": [],
            "encoder": encoder,
            "vocabulary_in_use": vocabulary,
            "compute_dtype": "bfloat16",
        },
    }


PEER = {
    "side": "transformers Flax",
    "model": "xlm-roberta-base",
    "vocabulary": 250_002,
    "chip": "v5e",
    "batch": 64,
    "length": 128,
    "dtype": "bfloat16",
    "estimated_cycles": 120_000_000,
    **{"versions": {"libtpu": "2"}, "git": "abc", "date": "2026-11-24T10:00"},
}


def test_estimates_are_compared_only_with_equal_settings() -> None:
    estimates = [PEER | {"estimated_cycles": 1}, PEER, PEER | {"chip": "v6e"}]
    estimates += [aot(9_088, 60_000_000), aot(250_002, 80_000_000)]
    text = report.page([], estimates).partition("## TPU ESTIMATES")[2]
    assert "Versions for flaxfer: libtpu 1. Commit not recorded." in text
    assert "Versions for the peer: libtpu 2. Commit abc; 2026-11-24." in text
    rows = text.splitlines()
    assert [row for row in rows if "v5e" in row or "v6e" in row][:4] == [
        "| xlm-roberta-base, 9,088 tokens | v5e | 64 x 128 | bfloat16 | flaxfer | 60.0 | 2.00 |",
        "| xlm-roberta-base, 250,002 tokens | v5e | 64 x 128 | bfloat16 | flaxfer | 80.0 | 1.50 |",
        "| xlm-roberta-base, 250,002 tokens | v5e | 64 x 128 | bfloat16 | transformers Flax "
        "| 120.0 |  |",
        "| xlm-roberta-base, 250,002 tokens | v6e | 64 x 128 | bfloat16 | transformers Flax "
        "| 120.0 |  |",
    ]


def test_packed_rows_are_compared_per_example() -> None:
    packed = aot(9_088, 10_000_000)
    packed["shapes"] |= {"batch_size": 64, "bucket_sizes": [14, 16]}
    packed["shapes"]["train"] = {"token_BT": [1, 16, 128]}
    packed["useful_per_step"] = {"tokens": 1_843.2}
    page = report.page([], [PEER, PEER | {"dtype": "float32"}, packed])
    # 1,843.2 of 2,048 slots are in use; 120 million cycles over 64 examples against 10 over 64.
    assert (
        "| xlm-roberta-base, 9,088 tokens | v5e | 64 | 16 x 128 | 10.0% | 10.0 | 156 | 12.0 |\n"
        in page
    )
    assert "| flaxfer |" not in page, "packed rows are not in the table of full rows"


def test_estimates_of_many_chips_have_the_share_of_collectives() -> None:
    many = aot(250_002, 90_000_000)
    many |= {"topology": {"name": "v5e:16x16", "chips": 256}, "mesh": {"data": 64, "fsdp": 4}}
    many |= {"collectives_not_hidden_share": 0.0449, "examples_per_s_estimate": 312_345.6}
    many["shapes"]["train"] = {"token_BT": [1, 16_384, 128]}
    page = report.page([], [aot(250_002, 80_000_000), many])
    assert (
        "| xlm-roberta-base, 250,002 tokens | v5e:16x16 | data 64 x fsdp 4 | 64 x 128 | 90.0 "
        "| 4.5% | 312,346 |\n" in page
    )
    assert "| 80.0 |  |\n" in page and "| 90.0 |  |\n" not in page


def test_cycles_by_part_have_lower_bounds_and_variants() -> None:
    record = aot(30_522, 60_000_000) | {
        "estimated_cycles": 64_000_000,
        "cycles_by_source": {"compiler": 60_000_000, "modelled": 4_000_000},
        "parts": [
            {"part": "attention", "direction": "forward", "cycles": 16_000_000},
            {"part": "feed_forward", "direction": "forward", "cycles": 10_000_000},
            {"part": "feed_forward", "direction": "backward", "cycles": 30_000_000},
            {"part": "optimizer", "direction": "", "cycles": 8_000_000},
        ],
        "topology": {"name": "v5e:1", "chip": "TPU v5e", "chips": 1}
        | {"peak_flops": 200e12, "clock_hz_estimate": 2e9},
        "model_flops": {"all_tokens": 3e12},
        "peak_bytes": 3 * 2**30,
        "useful_per_step": {"sequences": 64, "tokens": 8192, "pairs": 2**20},
        "bytes": {"parameters": 4 * 110_000_000},
    }
    record["shapes"]["encoder"]["intermediate_size"] = 3072
    other = record | {"estimated_cycles": 62_500_000, "peak_bytes": 2 * 2**30}
    text = tpu.profile(record, {"no clipping": other})
    assert "of all sources: 64.0, 4.0 of them by a model of bytes" in text
    assert "at the published peak: 30.0. Lower bounds" in text
    rows = [line for line in text.splitlines() if line.startswith("| ")][2:]
    assert rows[:3] == [
        "| feed_forward | 10.0 | 30.0 |  | 62.5% | 25.5 |",
        "| attention | 16.0 |  |  | 25.0% | 4.2 |",
        "| optimizer |  |  | 8.0 | 12.5% | 7.5 |",
    ]
    assert [row for row in rows[3:8] if "---" not in row] == [
        "| part | above its lower bound | left of the step |",
        "| feed_forward | 14.5 | 49.5 |",
        "| attention | 11.8 | 37.8 |",
        "| optimizer | 0.5 | 37.3 |",
    ]
    assert rows[-2:] == [
        "| as above | 60.0 | 4.0 | 64.0 | 3.00 |",
        "| no clipping | 60.0 | 4.0 | 62.5 | 2.00 |",
    ]
    assert "other settings" not in tpu.profile(record, {})


def test_lower_bounds_count_the_same_matmuls_as_the_report() -> None:
    """They are counted by part here and for the whole model in flaxfer.aot.flops."""
    record = json.loads((COMMITTED / "tpu-flaxfer-bert-base.json").read_text(encoding="utf-8"))
    encoder, work = record["shapes"]["encoder"], record["useful_per_step"]
    # At this peak memory traffic never dominates; the optimizer has no matmuls.
    record["bytes"] = {"parameters": 0}
    place = record["topology"] | {"peak_flops": 1e9, "clock_hz_estimate": 1e9}
    least = tpu.least_cycles(record | {"topology": place})
    head = 3 * 2 * work["sequences"] * encoder["hidden_size"] * (encoder["hidden_size"] + 1)
    assert sum(least.values()) + head == pytest.approx(record["model_flops"]["all_tokens"])


def test_records_become_page_and_plot(tmp_path: Path) -> None:
    results = tmp_path / "results"
    results.mkdir()
    (results / "sts-minilm.jsonl").write_text("".join(json.dumps(run) + "\n" for run in RUNS))
    stored = (COMMITTED / "quality.json").read_text(encoding="utf-8")
    (results / "quality.json").write_text(stored, encoding="utf-8")
    out = tmp_path / "BENCHMARKS.md"
    report.main(["--results", str(results), "--out", str(out)])
    page = out.read_text(encoding="utf-8")
    assert page == report.page(RUNS, [], [quality.section(json.loads(stored))])
    assert quality.section(json.loads(stored)) in page
    assert (tmp_path / report.PLOT.format(kind="avx512")).read_bytes().startswith(b"\x89PNG")


def test_committed_page_follows_from_the_committed_records() -> None:
    page = (common.ROOT / "BENCHMARKS.md").read_text(encoding="utf-8")
    assert page == report.page(*report.stored(COMMITTED))


def test_quality_summary_has_means_and_welchs_interval() -> None:
    scores = [0.80, 0.82, 0.81]
    study = {
        "versions": {"python": "3.12", "flaxfer": "0", "jax": "1"},
        "machine": {"cpu": "c", "cores": 2, "memory_gib": 8},
        "git": "g",
        "date": "2026-11-23T00:00",
        "runs": [
            {"evaluations": [{"set": "test", "metrics": {"pearson": s, "spearman": s - 0.1}}]}
            for s in scores
        ],
    }
    peer = [
        {"test_pearson": s, "test_spearman": s, "torch": "2", "transformers": "5"}
        for s in (0.70, 0.72, 0.71)
    ]
    record = quality.summary(study, peer)
    assert record["pearson"] == pytest.approx([0.81, 0.01])
    assert record["spearman"] == pytest.approx([0.71, 0.01])
    assert record["difference"] == pytest.approx(0.1)
    # Welch's interval of equal variances, 4 degrees of freedom: t = 2.77645.
    half = 2.7764451 * 0.01 * (2 / 3) ** 0.5
    assert [record["low"], record["high"]] == pytest.approx([0.1 - half, 0.1 + half])
