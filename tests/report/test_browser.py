"""Reports in a real browser: layout, sorting, filtering, folding, printing, and no requests."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flaxfer.report.writing import write_report
from tests.report.helpers import study_record, write_study
from tests.report.synthetic import World, write_grid

REASON = "needs selenium: pip install -e '.[browser]'"
webdriver = pytest.importorskip("selenium.webdriver", reason=REASON)
ui = pytest.importorskip("selenium.webdriver.support.ui", reason=REASON)

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
DRIVER = shutil.which("chromedriver")
if CHROMIUM is None or DRIVER is None:
    pytest.skip(
        "needs Chromium and its driver: apt-get install chromium chromium-driver",
        allow_module_level=True,
    )

WORLD = World(
    models=("xlmr",),
    targets=("sentiment-domain", "classification-domain", "similarity-language"),
    seeds=(0, 1),
    n=40,
)
PAPER = 690
"""Width in CSS pixels of A4 paper without its margins."""

# Elements that reach beyond the page, outside of boxes that scroll.
OVERFLOWING = """
const width = document.documentElement.clientWidth;
return [...document.querySelectorAll('main *')].filter((one) =>
  one.getBoundingClientRect().right > width + 0.5
  && !one.parentElement.closest('.scroll, pre, svg')
  && one.checkVisibility()).map((one) => one.outerHTML.slice(0, 200));
"""
# Texts of elements that a box clips.
CLIPPED = """
return [...document.querySelectorAll('.scroll, pre')].filter((one) =>
  one.scrollWidth > one.clientWidth + 1 && one.checkVisibility())
  .map((one) => one.textContent.slice(0, 80));
"""
COLUMN = """
const [caption, column] = arguments;
const table = [...document.querySelectorAll('table')]
  .find((one) => one.caption.textContent.includes(caption));
return [...table.tBodies[0].rows].filter((row) => !row.hidden)
  .map((row) => row.cells[column].textContent);
"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The page of a grid, of one of its studies, and of a study with direct runs alone."""
    grid = write_grid(tmp_path_factory.mktemp("grid"), WORLD)
    study = tmp_path_factory.mktemp("study")
    alone = write_study(tmp_path_factory.mktemp("alone"), study_record(("direct",)))
    cell = grid / "cells" / "xlmr.qqp.similarity-language"
    return {
        "grid": write_report(grid)[0],
        "study": write_report(cell, output=study)[0],
        "alone": write_report(alone)[0],
    }


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(executable_path=DRIVER)
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()


def show(driver: Any, page: Path, width: int, media: str = "") -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media})
    driver.get_log("browser")
    driver.get_log("performance")
    driver.get(page.as_uri())


def button(driver: Any, text: str) -> Any:
    return driver.find_element("xpath", f"//button[normalize-space()='{text}']")


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", ["grid", "study", "alone"])
def test_nothing_is_wider_than_the_page(
    name: str, width: int, pages: dict[str, Path], driver: Any
) -> None:
    show(driver, pages[name], width)
    for fold in ("Close all", "Open all"):
        button(driver, fold).click()
        root = "document.documentElement"
        scroll, client = driver.execute_script(f"return [{root}.scrollWidth, {root}.clientWidth]")
        assert client <= width and scroll <= client
        assert driver.execute_script(OVERFLOWING) == []


@pytest.mark.parametrize("name", ["grid", "study", "alone"])
def test_what_is_not_folded_fits_on_a_laptop_without_scrolling(
    name: str, pages: dict[str, Path], driver: Any
) -> None:
    show(driver, pages[name], 1280)
    assert driver.execute_script(CLIPPED) == []


@pytest.mark.parametrize("name", ["grid", "study", "alone"])
def test_nothing_is_cut_off_in_print(name: str, pages: dict[str, Path], driver: Any) -> None:
    show(driver, pages[name], PAPER)
    button(driver, "Open all").click()
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    beyond = """
    const width = document.documentElement.clientWidth;
    return [...document.querySelectorAll('main *')].filter((one) =>
      one.getBoundingClientRect().right > width + 0.5 && one.checkVisibility())
      .map((one) => one.outerHTML.slice(0, 200));
    """
    assert driver.execute_script(beyond) == []
    broken = """
    const lines = (text, start, end) => {
      const range = document.createRange();
      range.setStart(text, start);
      range.setEnd(text, end);
      return new Set([...range.getClientRects()].map((one) => one.top)).size;
    };
    return [...document.querySelectorAll('thead button')].flatMap((one) =>
      [...one.textContent.matchAll(/\\w+/g)]
      .filter((word) => lines(one.firstChild, word.index, word.index + word[0].length) > 1)
      .map((word) => word[0]));
    """
    assert driver.execute_script(broken) == []
    larger = """
    const size = (one) => parseFloat(getComputedStyle(one).fontSize);
    return [...document.querySelectorAll('main li, figcaption, caption')]
      .filter((one) => size(one) > size(document.body)).length;
    """
    assert driver.execute_script(larger) == 0


@pytest.mark.parametrize("name", ["grid", "study", "alone"])
def test_a_page_requests_nothing_and_has_no_errors(
    name: str, pages: dict[str, Path], driver: Any
) -> None:
    show(driver, pages[name], 1280)
    button(driver, "Open all").click()
    assert driver.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    requested = [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]
    assert requested == [pages[name].as_uri()]
    assert driver.execute_script("return document.images.length") == 0
    assert driver.title != "hacked"


def test_hostile_texts_are_shown_as_texts(pages: dict[str, Path], driver: Any) -> None:
    show(driver, pages["study"], 1280)
    assert "onerror=" in driver.execute_script("return document.body.textContent")
    policy = "const s = document.createElement('script'); s.textContent = 'document.title = \"x\"';"
    driver.execute_script(f"{policy} document.body.append(s);")
    assert driver.title != "x"  # The policy of the page allows no other script.


def test_headings_sort_by_number_and_back(pages: dict[str, Path], driver: Any) -> None:
    show(driver, pages["grid"], 1280)
    caption = "Mean ± standard deviation over seeds, by target and model"
    before = driver.execute_script(COLUMN, caption, 7)
    assert len(before) == 3
    table = "//table[contains(caption, 'Mean ± standard deviation over seeds, by target')]"
    head = driver.find_element("xpath", f"{table}//th[8]")
    assert head.text == "staged minus direct"
    numbers = sorted(map(float, before))
    for key, order, expected in (
        ("\ue007", "ascending", numbers),
        (" ", "descending", numbers[::-1]),
        ("\ue007", None, list(map(float, before))),
    ):
        head.find_element("tag name", "button").send_keys(key)  # By keyboard: enter or space.
        assert head.get_attribute("aria-sort") == order
        assert list(map(float, driver.execute_script(COLUMN, caption, 7))) == expected
    first = driver.find_element("xpath", f"{table}//th[1]/button")
    first.click()
    targets = driver.execute_script(COLUMN, caption, 0)
    assert targets == sorted(targets)


def test_empty_cells_sort_last(pages: dict[str, Path], driver: Any) -> None:
    show(driver, pages["study"], 1280)
    button(driver, "Open all").click()
    head = driver.find_element(
        "xpath", "//table[contains(caption, 'Stages, each')]//th[normalize-space()='parent']/button"
    )
    for _ in range(2):
        head.click()
        parents = driver.execute_script(COLUMN, "Stages, each", 12)
        empty = [not parent for parent in parents]
        assert any(empty) and empty == sorted(empty)


def test_a_language_is_chosen_from_a_menu(pages: dict[str, Path], driver: Any) -> None:
    show(driver, pages["study"], 1280)
    button(driver, "Open all").click()
    select = ui.Select(driver.find_element("css selector", ".tools select"))
    options = [option.text for option in select.options]
    assert options == ["all", "de", "en", "fr", "zh"]
    select.select_by_visible_text("fr")
    caption = "pearson by language, larger is better"
    assert driver.execute_script(COLUMN, caption, 0) == ["fr"]
    blocks = driver.find_elements("css selector", "details[data-language]")
    shown = {one.get_attribute("data-language") for one in blocks if one.is_displayed()}
    assert shown == {"fr"}
    foot = driver.find_element("css selector", "table tfoot")
    assert foot.is_displayed()  # Means stay.
    select.select_by_visible_text("all")
    assert driver.execute_script(COLUMN, caption, 0) == ["en", "de", "fr", "zh"]


def test_sentences_are_folded_and_open_by_keyboard(pages: dict[str, Path], driver: Any) -> None:
    show(driver, pages["grid"], 1280)
    item = driver.find_element("css selector", "ul.verdicts li")
    assert not item.is_displayed()
    summary = item.find_element("xpath", "ancestor::details/summary")
    summary.send_keys("\ue007")
    assert item.is_displayed()
    button(driver, "Close all").click()
    assert not item.is_displayed()


def test_everything_can_be_reached_by_keyboard(pages: dict[str, Path], driver: Any) -> None:
    show(driver, pages["study"], 390)
    unreachable = """
    return [...document.querySelectorAll('.scroll, pre, summary, button, select, a')]
      .filter((one) => one.tabIndex < 0).length;
    """
    assert driver.execute_script(unreachable) == 0
    unnamed = "return [...document.querySelectorAll('.scroll')].filter((o) => !o.ariaLabel).length"
    assert driver.execute_script(unnamed) == 0


def test_without_scripts_all_content_is_there(pages: dict[str, Path], driver: Any) -> None:
    content = "return [...document.querySelectorAll('td, p, li, text')].map((o) => o.textContent)"
    show(driver, pages["study"], 1280)
    with_scripts = driver.execute_script(content)
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        show(driver, pages["study"], 1280)
        assert not driver.find_element("css selector", ".tools").is_displayed()
        assert any(one.is_displayed() for one in driver.find_elements("css selector", "table"))
        found = driver.execute_script(content)
    finally:
        driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert found == with_scripts


@pytest.mark.slow
def test_the_page_of_a_large_grid_is_small(tmp_path: Path) -> None:
    """As large as the grid of the paper: 16 studies, 5 seeds, up to 11 languages."""
    languages = ("en", "de", "es", "fr", "it", "ja", "nl", "pl", "pt", "ru", "zh")
    targets = ("classification-domain", "classification-language", "sentiment-language",
               "similarity-language")  # fmt: skip
    world = World(("a", "b", "c", "d"), targets, (0, 1, 2, 3, 4), languages, n=60)
    for file in write_grid(tmp_path, world).glob("cells/*/study.json"):
        study = json.loads(file.read_text())
        for run in study["runs"]:
            run.pop("wise_ft", None)  # That grid has no mixtures.
        file.write_text(json.dumps(study))
    page = write_report(tmp_path)[0]
    assert len(list(tmp_path.glob("cells/*"))) == 16
    assert page.stat().st_size < 1_000_000
