"""The report of a grid, compared with the evidence and with computations by hand."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from scipy import stats

from flaxfer.main import main
from flaxfer.report.csv_tex import tex
from flaxfer.report.data import ReportData, read_report_data
from flaxfer.report.document import Text
from flaxfer.report.failures import failure_blocks
from flaxfer.report.stages import stage_nodes
from flaxfer.report.writing import write_report
from flaxfer.statistics.multiplicity import Verdict
from flaxfer.statistics.records import Comparison, Estimate
from tests.report.helpers import NASTY, SCRIPT, Page, report_page, spread, table
from tests.report.synthetic import RESTART, World, write_grid

WORLD = World(
    models=("bert", "xlmr"),
    targets=("classification-domain", "classification-language", "similarity-language"),
    seeds=(0, 1, 2),
    n=90,
)
COLLAPSED = "bert.imdb.classification-domain"
FAILED = "bert.qqp.similarity-language"
SPACE = "\N{NO-BREAK SPACE}"
NUMBERS = (
    "difference", "low", "high", "p", "p_equivalence", "p_holm", "p_equivalence_holm", "alpha_holm",
    "low_simultaneous", "high_simultaneous", "level_simultaneous", "p_seeds", "pooled_sd",
    "effect_size", "seed_correlation", "variance_examples", "variance_seeds",
    "variance_interaction", "examples_share", "needed_seeds", "needed_examples",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_grid(tmp_path_factory.mktemp("grid"), WORLD)
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def data(folder: Path) -> ReportData:
    return read_report_data([folder], folder)


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return Page((folder / "report.html").read_text())


def record(folder: Path, name: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((folder / "cells" / name / "study.json").read_text())
    return read


def accuracies(folder: Path, name: str, condition: str, code: str = "en") -> list[float]:
    """Return the accuracies by seed, computed from the predictions."""
    values = []
    for run in record(folder, name)["runs"]:
        if (run["condition"], run["stage"]) == (condition, "target"):
            file = folder / "cells" / name / run["dir"] / f"predictions/{code}-{'f' * 12}.jsonl"
            lines = [json.loads(line) for line in file.read_text().splitlines()]
            values.append(float(np.mean([line["prediction"] == line["label"] for line in lines])))
    return values


def headlines(data: ReportData) -> dict[str, Comparison]:
    return {entry.name: one for entry in data.entries if (one := entry.headline)}


def test_the_verdicts_come_first_and_are_those_of_the_evidence(
    folder: Path, data: ReportData, page: Page
) -> None:
    text = (folder / "report.html").read_text()
    # The plot, the table, and only then the sentences.
    places = ("<svg", "<table>", '<ul class="verdicts">', "<h2")
    assert sorted(places, key=text.index) == list(places)
    by_name = headlines(data)
    assert len(by_name) == 6
    assert by_name[COLLAPSED].set == "en" and by_name[FAILED].language == "zero-shot mean"
    items = [" ".join(item.split()) for item in page.texts["li"]]
    for name, one in by_name.items():
        model, intermediate, target = name.split(".")
        start = f"{one.all_runs.verdict} {intermediate} before {target}, with {model}: "
        (item,) = [item for item in items if item.startswith(start)]
        assert f"{one.all_runs.difference:+.3f} [{one.all_runs.low:+.3f}, " in item
        assert f"{one.all_runs.high:+.3f}]" in item
        assert f"p {one.all_runs.p:.2g}, after Holm's correction {one.all_runs.p_holm:.2g}" in item
        assert ("Collapsed, and counted: direct seed 0; without, " in item) == (name == COLLAPSED)
        assert ("Diverged, and not counted: staged/target seed 2" in item) == (name == FAILED)
    words = [one.all_runs.verdict for one in by_name.values()]
    always = {"helps", "hurts", "no relevant change", "undecided"}
    counts = [
        f"{word} in {words.count(word)}".replace(", but", " but")
        for word in get_args(Verdict)
        if word in words or word in always
    ]
    assert page.texts["p"][1] == f"6 comparisons of staged with direct: {', '.join(counts)}."
    assert words.count("helps") >= 1


def test_targets_by_model_equal_computations_by_hand(
    folder: Path, data: ReportData, page: Page
) -> None:
    rows = table(page, "Mean ± standard deviation over seeds, by target and model")
    assert [row[:2] for row in rows[1:]] == [
        [target, model] for target in sorted(WORLD.targets) for model in WORLD.models
    ]
    row = dict(zip(rows[0], rows[1], strict=True))
    direct, staged = (accuracies(folder, COLLAPSED, name) for name in ("direct", "staged"))
    assert (row["direct"], row["staged"]) == (spread(direct), spread(staged))
    difference = np.mean(staged) - np.mean(direct)
    assert row["staged minus direct"] == f"{difference:+.3f}"
    one = headlines(data)[COLLAPSED].all_runs
    assert row["interval"] == f"[{one.low:+.3f},{SPACE}{one.high:+.3f}]"
    # The largest of the smallest values: 3 and 3 runs, against 3 and 2.
    assert any("smallest possible value is up to 0.1." in text for text in page.texts["li"])


def test_comparisons_csv_has_every_digit(folder: Path, data: ReportData) -> None:
    with (folder / "comparisons.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    expected: list[tuple[Comparison, str, Estimate]] = []
    for entry in data.entries:
        for one in (*entry.comparisons, *entry.means):
            expected.append((one, "all", one.all_runs))
            if one.without_collapsed:
                expected.append((one, "without collapsed", one.without_collapsed))
    assert len(lines) == len(expected) > len(data.evidence.comparisons)
    for line, (one, runs, estimate) in zip(lines, expected, strict=True):
        assert (line["study"], line["language"], line["set"]) == (one.study, one.language, one.set)
        assert (line["runs"], line["verdict"]) == (runs, estimate.verdict)
        assert line["direct_seeds"] == " ".join(map(str, estimate.direct.seeds))
        for name in NUMBERS:
            value = getattr(estimate, name)
            assert line[name] == ("" if value is None else repr(value))
        assert line["needed_both"] == " ".join(map(str, estimate.needed_both or ()))
        assert (line["family"], line["margin"]) == (one.family, "0.1")
        assert line["units"] == str(one.units)
        assert (line["paired"], line["left_out"]) == ("no", "")
        assert line["at_chance"] == ("yes" if one.at_chance else "no")
        assert line["p_holm"] == repr(estimate.p_holm)
        assert float(line["staged_mean"]) == estimate.staged.mean
        assert line["collapsed"] == ("direct:0" if one.study == COLLAPSED else "")
    marked = [line["study"] for line in lines if line["family"] == "primary"]
    assert set(marked) == set(headlines(data)) and len(marked) == 6 + 1


def test_results_csv_has_every_score(folder: Path) -> None:
    with (folder / "results.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    scores = {
        (line["study"], line["condition"], line["seed"], line["language"], line["metric"]): line[
            "value"
        ]
        for line in lines
    }
    expected = {
        (name, run["condition"], str(run["seed"]), entry["language"], metric): repr(value)
        for name in headlines_of(folder)
        for run in record(folder, name)["runs"]
        for entry in run["evaluations"]
        for metric, value in entry["metrics"].items()
    }
    assert scores == expected and len(lines) == len(expected)


def headlines_of(folder: Path) -> list[str]:
    return sorted(path.parent.name for path in folder.glob("cells/*/study.json"))


def test_latex_holds_the_numbers_and_escapes_names(folder: Path, data: ReportData) -> None:
    lines = (folder / "results.tex").read_text().splitlines()
    rows = [line.removesuffix(r" \\").split(" & ") for line in lines if line.count(" & ") == 9][1:]
    assert len(rows) == 6
    (row,) = [row for row in rows if row[:3] == ["similarity-language", "bert", "qqp"]]
    one = headlines(data)[FAILED].all_runs
    assert row[3:6] == [
        "pearson",
        rf"${one.direct.mean:.3f} \pm {one.direct.sd:.3f}$",
        rf"${one.staged.mean:.3f} \pm {one.staged.sd:.3f}$",
    ]
    assert row[6] == f"${one.difference:+.3f}$ $[{one.low:+.3f}, {one.high:+.3f}]$"
    assert row[7:9] == [f"${one.p_holm:.2g}$", f"${one.p_equivalence_holm:.2g}$"]
    assert one.verdict in row[9]
    assert tex("a_b & 50 % of #1 {x} ~^ \\ $ a--b") == (
        r"a\_b \& 50 \% of \#1 \{x\} \textasciitilde{}\textasciicircum{} \textbackslash{} \$ a-{}-b"
    )
    assert tex("[a]") == "{[}a]"
    escaped = re.sub(r"\\text[a-z]+\{\}|\\[&%$#_{}]", "", tex(NASTY))
    assert not set(escaped) & set("\\&%$#_{}~^<>|\"`'")


def test_the_page_loads_nothing_and_its_links_lead_somewhere(folder: Path, page: Page) -> None:
    text = (folder / "report.html").read_text()
    assert "http://" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", text) and "https://" not in text
    assert page.texts["script"] == [SCRIPT]
    assert not {"img", "link", "iframe"} & page.texts.keys()
    links = [value for tag, name, value in page.attributes if (tag, name) == ("a", "href")]
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    for link in links:
        assert link[1:] in ids if link.startswith("#") else (folder / link).exists()
    stages = {link.split("/")[2] for link in links if link.startswith("./stages/")}
    assert stages == {path.parent.name for path in folder.glob("stages/*/metrics.jsonl")}
    headings = [name for tag, name, _ in page.attributes if tag == "h2"]
    assert headings == ["id"] * len(page.texts["h2"]) and len(headings) == 15
    labels = [value for tag, name, value in page.attributes if (tag, name) == ("svg", "aria-label")]
    assert len(labels) == len(page.texts["svg"]) and all(labels)
    assert len(text) < 5e5


def test_means_over_tasks_equal_computations_by_hand(folder: Path, page: Page) -> None:
    rows = table(page, "Means with xlmr")
    kinds = {"imdb.classification-domain": ["en"], "imdb.classification-language": None}
    kinds |= {"qqp.similarity-language": None}
    means, zero_shot = [], []
    for name, codes in kinds.items():
        study = record(folder, f"xlmr.{name}")
        scores = np.array([
            [e["metrics"][study["metric"]] for e in run["evaluations"]]
            for run in study["runs"]
            if (run["condition"], run["stage"]) == ("staged", "target")
        ])  # fmt: skip
        means.append(scores.mean(axis=1))
        if codes is None:
            zero_shot.append(scores[:, 1:].mean(axis=1))  # All but en, which is first.
    over_tasks = {row[2]: row[4] for row in rows if row[0] == "mean over tasks"}
    assert over_tasks["mean over all languages"] == spread(np.mean(means, axis=0))
    assert over_tasks["zero-shot mean"] == spread(np.mean(zero_shot, axis=0))
    # Of the other model a study lacks a seed, so there is no spread over tasks.
    rows = table(page, "Means with bert")
    assert all("±" not in row[4] for row in rows if row[0] == "mean over tasks")
    assert any(f"{FAILED} is without the seeds" in text for text in page.texts["li"])
    groups = {row[1] for row in table(page, "By group of languages with xlmr")[1:]}
    resources = {"5, winners"}
    assert groups == {"IE: Germanic", "IE: Romance", "Sino-Tibetan", "Chinese", "Latin"} | resources


def test_shared_stages_are_listed_once(data: ReportData, page: Page) -> None:
    nodes = stage_nodes(data)
    (imdb,) = [n for n in nodes if (n.model, n.task) == ("bert", "imdb")]
    assert imdb.text == "imdb: 3 of 3 seeds done, shared by 2 studies"
    after = [node.task for node in nodes if node.parent is imdb]
    assert after == ["classification-domain", "classification-language"]
    bad = [text for text in page.texts["span"] if "diverged: " in text]
    assert bad == ["similarity-language, staged: 2 of 3 seeds done, diverged: seed 2"]
    rows = table(page, "Training by stage")
    # 2 models: 3 targets in 2 conditions, and 2 intermediate stages; seconds are 100 + seed. One
    # run has an attempt before it.
    assert len(rows) == 1 + 2 * (3 * 2 + 2) + 1
    assert ["classification-domain", "bert", "staged after imdb"] in [row[:3] for row in rows]
    assert rows[-1][3:5] == [str(16 * 3 - 1), f"{16 * 303 - 102 + RESTART['seconds']:,.1f}"]


def test_regret_of_choosing_by_a_score(folder: Path, page: Page) -> None:
    rows = table(page, "Regret")
    by = {row[2]: row[3:] for row in rows if row[:2] == ["classification-domain", "xlmr"]}
    name = "xlmr.imdb.classification-domain"
    direct, staged = (np.mean(accuracies(folder, name, c)) for c in ("direct", "staged"))
    regret = staged - direct
    assert by["LogME"] == ["imdb", "imdb", "0.000", "0.0%", "+1.00"]
    assert by["nearest neighbours"] == [
        "no intermediate task", "imdb", f"{regret:.3f}", f"{regret / staged:.1%}", "-1.00"
    ]  # fmt: skip


def test_forgetting_equals_computations_by_hand(folder: Path, tmp_path: Path) -> None:
    name = "xlmr.qqp.similarity-language"
    page = report_page(folder / "cells" / name, output=tmp_path)
    runs = [run for run in record(folder, name)["runs"] if run["stage"] == "target"]
    after = [
        run["retained"][0]["after"]["accuracy"] for run in runs if run["condition"] == "staged"
    ]
    (row,) = table(page, "accuracy of qqp before and after")[1:]
    change = np.array(after) - 0.9
    assert row[2:] == ["300", f"0.900 ±{SPACE}0.000", spread(after), spread(change, "+")]
    rows = table(page, "Mixtures")
    assert [row[:2] for row in rows[1:]] == [
        [condition, share]
        for condition in ("direct", "staged")
        for share in ("0", "0.25", "0.5", "0.75", "1")
    ]
    zero_shot = [
        np.mean([entry["metrics"]["pearson"] for entry in run["evaluations"][1:]])
        for run in runs
        if run["condition"] == "direct"
    ]
    assert rows[3][3] == spread(0.8 * np.array(zero_shot))  # The share 0.5 is 0.6 + 0.2 of it.


def test_overlap_collapsed_restarted_and_diverged_runs_are_listed(page: Page) -> None:
    rows = table(page, "18 pairs of splits compared")
    assert {row[3] for row in rows[1:]} == {"target/de"} and len(rows) == 1 + 4
    row = dict(zip(rows[0], rows[1], strict=True))
    assert row["with a shared text"] == "3" and row["share"] == "1.50%"
    sizes = table(page, "Training examples")
    assert sizes[1][1:] == ["2,500", "250", "10.0", "yes"] and len(sizes) == 7
    (collapsed,) = table(page, "Runs that have collapsed")[1:]
    assert collapsed[:5] == [COLLAPSED, "en", "en", "direct", "0"]
    assert collapsed[6] == f"stages/{COLLAPSED}-direct-0"
    rows = table(page, "Results with collapsed runs and without")
    assert [row[:3] for row in rows[1:]] == [
        [COLLAPSED, "all", "3 seeds"],
        [COLLAPSED, "without collapsed", "2 direct and 3 staged"],
    ]
    restarted_study = "bert.imdb.classification-language"
    (nothing,) = table(page, "Sets on which runs have learned nothing")[1:]
    assert nothing[:5] == [restarted_study, "zh", "zh", "staged", "0"]
    assert nothing[5] == "one prediction for 100.0% of the examples"
    assert not any("would have been restarted" in text for text in page.texts["p"])
    (restarted,) = table(page, "Attempts that were given up")[1:]
    assert restarted == [restarted_study, "staged", "target", "0", "1", "0", "40", RESTART["why"]]
    (failed,) = table(page, "Runs that have diverged")[1:]
    assert failed == [FAILED, "staged", "target", "2", "the loss of step 7 is nan"]


def test_a_restart_policy_without_restarts_is_mentioned(data: ReportData) -> None:
    (entry,) = [one for one in data.entries if one.name == COLLAPSED]
    for restarts, sentences in ((2, 1), (0, 0)):
        study = dataclasses.replace(entry.study, config={"target": {"max_restarts": restarts}})
        one = dataclasses.replace(data, entries=(dataclasses.replace(entry, study=study),))
        texts = [block.text for block in failure_blocks(one) if isinstance(block, Text)]
        assert sum("would have been restarted" in text for text in texts) == sentences


def test_several_folders_give_one_report_and_one_family(folder: Path, tmp_path: Path) -> None:
    world = dataclasses.replace(WORLD, models=("bert",), targets=WORLD.targets[-1:])
    other = write_grid(tmp_path / "other", world)
    study = folder / "cells" / FAILED
    output = tmp_path / "merged" / "report"
    write_report(other, study, output=output)
    merged = read_report_data([other, study], output)
    names = [entry.name for entry in merged.entries]
    assert names == [f"{FAILED} ({other / 'cells' / FAILED})", f"{FAILED} ({study})"]
    text = (output / "report.html").read_text()
    links = re.findall(r'href="(\./[^"]*)"', text)
    assert links and all((output / link).exists() for link in links)
    # One primary family of both studies.
    (alone,) = read_report_data([study], output).entries
    assert merged.entries[-1].headline and alone.headline
    p, p_holm = alone.headline.all_runs.p, merged.entries[-1].headline.all_runs.p_holm
    assert merged.entries[-1].headline.all_runs.p == p and p_holm and p_holm >= p
    assert "the comparison that decides about each study: 2 comparisons." in text


def test_descriptive_statistics_are_added_on_request(
    folder: Path, page: Page, tmp_path: Path
) -> None:
    assert not any("ε min" in text for text in page.texts["th"])
    names = (COLLAPSED, "bert.imdb.classification-language")
    studies = [str(folder / "cells" / name) for name in names]
    assert main(["report", *studies, "--descriptive", "--output", str(tmp_path)]) == 0
    with (tmp_path / "comparisons.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    # One primary comparison of each study; the sets in four languages and other means are the rest.
    compared = {
        family: {line["epsilon_min_comparisons"] for line in lines if line["family"] == family}
        for family in ("primary", "secondary")
    }
    rest = [line for line in lines if (line["family"], line["runs"]) == ("secondary", "all")]
    assert compared == {"primary": {"2"}, "secondary": {str(len(rest))}} and len(rest) == 4 + 2
    rows = table(
        Page((tmp_path / "report.html").read_text()), "Statistics that other papers report"
    )
    assert len(rows) == 1 + 2
    for line in lines:
        if (line["runs"], line["language"]) != ("all", "en"):
            continue
        direct, staged = (accuracies(folder, line["study"], c) for c in ("direct", "staged"))
        pairs = [(one > other) + (one == other) / 2 for one in staged for other in direct]
        assert float(line["better"]) == pytest.approx(np.mean(pairs), abs=1e-12)
        low, high = float(line["multi_low"]), float(line["multi_high"])
        assert low <= np.mean(staged) - np.mean(direct) <= high
        quantile = stats.norm.isf(0.05 / int(line["epsilon_min_comparisons"]))
        bound = float(line["violation"]) + float(line["violation_sd"]) * quantile
        assert float(line["epsilon_min_staged"]) == pytest.approx(min(bound, 1))
    every, sound = (line for line in lines if line["study"] == COLLAPSED)
    assert (every["runs"], sound["runs"]) == ("all", "without collapsed")
    assert every["violation"] != sound["violation"] or every["better_low"] != sound["better_low"]
