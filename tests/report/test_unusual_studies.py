"""The report of studies that are small, oddly named, unfinished or damaged."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from flaxfer.errors import DataError
from flaxfer.main import main
from flaxfer.report.writing import write_report
from tests.report.helpers import NASTY, SCRIPT, report_page, table
from tests.report.synthetic import World, write_grid

COLLAPSED = "bert.imdb.classification-domain"
FAILED = "bert.qqp.similarity-language"


def test_one_seed_gives_no_verdict(tmp_path: Path) -> None:
    one = World(models=("bert",), targets=("similarity-language",), seeds=(0,), n=40)
    grid = write_grid(tmp_path, one)
    record = json.loads((grid / "cells" / FAILED / "study.json").read_text())
    # The run that has diverged is finished after all, as good as the other one.
    (direct,) = (run for run in record["runs"] if run["condition"] == "direct")
    record["runs"].append(direct | {"condition": "staged", "parent": "bert-qqp-0"})
    record["failed"] = []
    path = grid / "cells" / FAILED
    (path / "study.json").write_text(json.dumps(record))
    page = report_page(path)
    assert (
        page.texts["span"].count("not judged: 1 seed") > 1 and "undecided" not in page.texts["span"]
    )
    (sentence,) = [text for text in page.texts["p"] if text.startswith("qqp before ")]
    assert "1 seed, so the interval is over examples alone (p " in sentence
    assert "conditional on these runs: it says nothing about other seeds" in sentence
    assert any("With one seed in a condition there is no verdict." in p for p in page.texts["p"])


def test_names_are_escaped_everywhere(tmp_path: Path) -> None:
    small = World(models=("bert",), targets=("classification-domain",), seeds=(0, 1), n=40)
    grid = write_grid(tmp_path, small)
    path = grid / "cells" / COLLAPSED
    record = json.loads((path / "study.json").read_text())
    record |= {"name": NASTY, "cell": dict.fromkeys(("model", "target", "intermediate"), NASTY)}
    record["cell"]["fraction"] = 0.5
    (path / "study.json").write_text(json.dumps(record))
    page = report_page(path)
    assert page.texts["script"] == [SCRIPT] and page.texts["h1"] == [NASTY]
    assert table(page, "Mean ± standard")[1][0] == f"{NASTY} (0.5 of the data)"
    markdown = re.sub(r"(?s)^```.*?^```$", "", (path / "report.md").read_text(), flags=re.MULTILINE)
    assert not re.search(r"(?<!\\)<script", markdown)


def test_damaged_folders_are_errors_and_unfinished_studies_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = World(models=("bert",), targets=("classification-domain",), seeds=(0, 1), n=40)
    grid = write_grid(tmp_path / "grid", small)
    study = grid / "cells" / COLLAPSED
    with pytest.raises(DataError, match="given twice") as caught:
        write_report(study, grid, output=tmp_path)
    assert caught.value.where == str(study) and caught.value.hint
    assert main(["report", str(study), str(grid)]) == 2
    assert "--output" in capsys.readouterr().err
    (grid / "cells" / "bert.imdb.more").mkdir()
    assert main(["report", str(grid)]) == 0
    assert "not in this report: cells/bert.imdb.more" in (grid / "report.html").read_text()
    file = next(grid.glob(f"stages/{COLLAPSED}-staged-0/predictions/*"))
    file.write_text(file.read_text()[:-30])
    assert main(["report", str(grid)]) == DataError.exit_code
    assert file.name in capsys.readouterr().err
    shutil.rmtree(study)
    with pytest.raises(DataError, match="no study in these folders is finished") as caught:
        write_report(grid)
    assert caught.value.where == str(grid) and caught.value.hint
    record = {"name": "x", "overlap": [{"a": 1}], "size_rule": {}, "cell": 3}
    (grid / "study.json").write_text(json.dumps(record))
    with pytest.raises(DataError, match=r"(?s)not the record of a study.*metric: Field required"):
        write_report(grid)
