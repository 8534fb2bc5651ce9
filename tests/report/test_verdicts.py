"""Sentences, captions and notes on verdicts."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from flaxfer.report.csv_tex import comparisons_csv
from flaxfer.report.data import Entry, ReportData, read_report_data
from flaxfer.report.document import Block, Figure, Folded, Table, Text, Verdicts
from flaxfer.report.formatting import about, p_value, signed
from flaxfer.report.languages import CORRELATION_NOTE, language_blocks
from flaxfer.report.verdicts import target_blocks, verdict_blocks
from flaxfer.statistics.multiplicity import Verdict
from flaxfer.statistics.records import Comparison, Estimate
from tests.report.synthetic import World, write_grid

WORLD = World(
    models=("bert",),
    targets=("sentiment-domain", "similarity-language"),
    seeds=(0, 1, 2),
    n=40,
    margin=0.03,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ReportData:
    folder = write_grid(tmp_path_factory.mktemp("grid"), WORLD)
    return read_report_data([folder], folder)


def unfolded(blocks: Sequence[Block]) -> Iterator[Block]:
    for block in blocks:
        if isinstance(block, Folded):
            yield from unfolded(block.blocks)
        else:
            yield block


def text_of(blocks: Sequence[Block]) -> str:
    return "\n".join(block.text for block in unfolded(blocks) if isinstance(block, Text))


def replaced(data: ReportData, **changes: object) -> ReportData:
    """Return the data with other values in the estimates of the primary comparisons."""

    def changed(entry: Entry) -> Entry:
        assert entry.headline
        estimate = dataclasses.replace(entry.headline.all_runs, **changes)
        headline = dataclasses.replace(entry.headline, all_runs=estimate)
        return dataclasses.replace(entry, headline=headline)

    return dataclasses.replace(data, entries=tuple(map(changed, data.entries)))


def sentences(data: ReportData) -> list[str]:
    (verdicts,) = [block for block in unfolded(verdict_blocks(data)) if isinstance(block, Verdicts)]
    return [sentence for _, sentence in verdicts.items]


UNDECIDED: dict[str, object] = {
    "verdict": "undecided", "low": -0.01, "difference": 0.02, "high": 0.05, "p_holm": 0.3,
    "low_simultaneous": -0.02, "high_simultaneous": 0.06, "examples_share": 0.45,
}  # fmt: skip


@pytest.mark.parametrize(
    ("needed", "expected"),
    [
        ((12, 1875, None), "more seeds: 12, or a larger test set: about 1,900 examples."),
        ((12, None, None), "more seeds: 12; no test set is large enough with these seeds."),
        ((None, 1875, None), "a larger test set: about 1,900 examples; no number of seeds is eno"),
        ((None, None, (9, 540)), "more seeds and a larger test set: 9 seeds, about 540 examples;"),
    ],
)
def test_what_would_decide_is_said_of_undecided_studies(
    needed: tuple[int | None, int | None, tuple[int, int] | None], expected: str, data: ReportData
) -> None:
    names = ("needed_seeds", "needed_examples", "needed_both")
    changes = UNDECIDED | dict(zip(names, needed, strict=True))
    for sentence in sentences(replaced(data, **changes)):
        assert "Examples cause 45% of the variance. To find a difference of this size: " in sentence
        assert expected in sentence
    for sentence in sentences(replaced(data, **changes | {"verdict": "helps"})):
        assert "To find" not in sentence and "Examples cause" not in sentence


def test_early_looks_do_not_ask_for_fewer_seeds_than_there_are(data: ReportData) -> None:
    for sentence in sentences(replaced(data, **UNDECIDED | {"needed_seeds": 2})):
        assert "Without looks, these seeds would find" in sentence and "To find" not in sentence


def test_nothing_is_promised_where_no_design_is_enough(data: ReportData) -> None:
    changes = UNDECIDED | dict.fromkeys(("needed_seeds", "needed_examples", "needed_both"))
    for sentence in sentences(replaced(data, **changes)):
        assert "45% of the variance." in sentence and "To find" not in sentence


def test_intervals_that_seem_to_contradict_the_verdict_are_explained(data: ReportData) -> None:
    alone, stepwise = "not corrected", "stepwise correction claims more"
    cases: list[tuple[Verdict, float, float, str, str]] = [
        ("undecided", -0.01, -0.02, "", alone + stepwise),
        ("undecided", 0.01, -0.02, alone, stepwise),
        ("no relevant change", 0.01, -0.02, alone, stepwise),
        ("helps", 0.01, -0.02, stepwise, alone),
        ("helps", 0.02, 0.01, "", alone + stepwise),
    ]
    for verdict, low, low_simultaneous, expected, unexpected in cases:
        changes = UNDECIDED | {"verdict": verdict, "low": low, "low_simultaneous": low_simultaneous}
        for sentence in sentences(replaced(data, **changes)):
            assert expected in sentence
            assert not any(part in sentence for part in (alone, stepwise) if part in unexpected)
            assert f"Simultaneous interval [{low_simultaneous:+.3f}," in sentence


def test_the_margin_is_declared_or_said_to_be_missing(data: ReportData, tmp_path: Path) -> None:
    text = text_of(verdict_blocks(data))
    assert "the margin (accuracy 0.03, pearson 0.03)" in text and "No margin" not in text
    assert "no relevant change in" in text
    assert "decides about each study: 2 comparisons." in text
    count = len(data.evidence.comparisons) + len(data.evidence.means) - 2
    assert f"The other comparisons ({count} single sets, means and transfer gaps)" in text
    for sentence, (_, one) in zip(sentences(data), data.judged, strict=True):
        p, corrected = one.all_runs.p_equivalence, one.all_runs.p_equivalence_holm
        assert f"at least the margin, p {p_value(p)}, corrected {p_value(corrected)};" in sentence
    folder = write_grid(tmp_path, dataclasses.replace(WORLD, margin=None))
    without = read_report_data([folder], folder)
    text = text_of(verdict_blocks(without))
    assert "No margin was declared, so no study can show" in text
    assert "no relevant change in" not in text
    assert all("margin" not in sentence for sentence in sentences(without))


def test_the_report_says_which_analysis_was_used(data: ReportData, tmp_path: Path) -> None:
    folder = write_grid(tmp_path, dataclasses.replace(WORLD, paired=True))
    paired = read_report_data([folder], folder)
    assert "Runs are not paired by seed: " in text_of(verdict_blocks(data))
    assert "Runs of the same seed are paired, as declared" in text_of(verdict_blocks(paired))
    mixed = dataclasses.replace(data, entries=(data.entries[0], paired.entries[1]))
    assert "are paired in 1 of 2 studies, as declared" in text_of(verdict_blocks(mixed))
    # All staged runs of one study have collapsed, and staged seed 2 of the other has diverged.
    diverged, collapsed = sentences(paired)
    assert "; 3 pairs of runs. " in collapsed and collapsed.endswith("without, no pair is left.")
    assert "; 2 pairs of runs (left out, as the pair is incomplete: direct seed 2). " in diverged
    assert not any("pair" in sentence for sentence in sentences(data))
    for line in csv.DictReader(comparisons_csv(paired).splitlines()):
        assert line["paired"] == "yes" and line["direct_seeds"] == line["staged_seeds"]
        left_out = "direct:2" if line["target"] == "similarity-language" else ""
        assert line["left_out"] == left_out


def with_correlation(blocks: Sequence[Block]) -> list[Table]:
    """Return the tables of correlations over seeds, folded or not."""
    open_ = [one for block in blocks for one in getattr(block, "blocks", [block])]
    tables = [one for one in open_ if isinstance(one, Table)]
    return [one for one in tables if any("seed correlation" in record for record in one.records)]


def test_the_correlation_over_seeds_is_always_shown(data: ReportData) -> None:
    (table,) = with_correlation(target_blocks(data))
    assert CORRELATION_NOTE in table.notes
    for record, (_, one) in zip(table.records, data.judged, strict=True):
        direct, staged = one.all_runs.direct, one.all_runs.staged
        if len(direct.seeds) == len(staged.seeds) == 3:
            expected = f"{np.corrcoef(direct.scores, staged.scores)[0, 1]:.2f}"
        else:
            expected = ""  # Two seeds are shared.
        assert record["seed correlation"] == expected
    assert {record["seed correlation"] == "" for record in table.records} == {True, False}
    for entry in data.entries:
        (table,) = with_correlation(language_blocks(dataclasses.replace(data, entries=(entry,))))
        assert CORRELATION_NOTE in table.notes


def test_tables_tell_families_apart_and_gaps_neither_help_nor_hurt(data: ReportData) -> None:
    (entry,) = [one for one in data.entries if one.target == "similarity-language"]
    blocks = language_blocks(dataclasses.replace(data, entries=(entry,)))
    tables = [block for block in blocks if isinstance(block, Table)]
    table = next(block for block in tables if "by language, over all runs" in block.caption)
    families = {record["language"]: record["family"] for record in table.records}
    assert [name for name, family in families.items() if family == "primary"] == ["zero-shot mean"]
    verdicts = {record["language"]: record["verdict"] for record in table.records}
    assert not {"helps", "hurts"} & {verdicts["transfer gap"]}
    captions = [block.caption for block in blocks if isinstance(block, Figure)]
    assert any("grey band holds the differences within the margin" in text for text in captions)


def test_units_and_sets_at_chance_are_shown(data: ReportData) -> None:
    entry = data.entries[0]
    first, *others = entry.comparisons

    def difference_table(comparisons: tuple[Comparison, ...]) -> Table:
        changed = dataclasses.replace(entry, comparisons=comparisons)
        blocks = language_blocks(dataclasses.replace(data, entries=(changed,)))
        tables = [block for block in blocks if isinstance(block, Table)]
        return next(table for table in tables if "by language, over all runs" in table.caption)

    sound = [dataclasses.replace(one, at_chance=False) for one in others]
    failed = dataclasses.replace(first, units=7, at_chance=True)
    table = difference_table((failed, *sound))
    assert table.records[0]["units"] == 7
    assert table.records[0]["at chance"] == "yes"
    assert any("At chance" in note for note in table.notes)
    table = difference_table((dataclasses.replace(first, at_chance=False), *sound))
    assert "at chance" not in table.columns


def test_targets_show_corrected_values(data: ReportData) -> None:
    _, table = unfolded(target_blocks(data))
    assert isinstance(table, Table)
    for record, (_, one) in zip(table.records, data.judged, strict=True):
        estimate: Estimate = one.all_runs
        assert record["p of margin after Holm"] == p_value(estimate.p_equivalence_holm)
        assert record["needed examples"] == estimate.needed_examples
        assert estimate.examples_share is not None
        assert record["variance of examples"] == f"{estimate.examples_share:.0%}"


def test_numbers() -> None:
    assert [about(n) for n in (7, 540, 1801, 99_100)] == ["7", "540", "1,900", "100,000"]
    assert [signed(x) for x in (0.0, -0.25, 0.0004, -2e-6)] == [
        "+0.000", "-0.250", "+0.0004", "-0.000002",
    ]  # fmt: skip
    assert [p_value(p) for p in (None, 0.0, 1e-8)] == ["\N{EN DASH}", "<1e-15", "1e-08"]
