"""The report in a real Chromium: opened from disk, used, attacked, measured."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report_browser import INSTALL, Opened, chromium, opened, picture
from report_study import make_study

from harness.analysis import JudgeOptions
from harness.report.content import Wanted, gather
from harness.report.html import Form, page

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium() is None, reason=INSTALL),
]
# For a person to look at; ignored by git.
SCREENSHOTS = Path(__file__).parent.parent / ".cache" / "report"
MICRO = Path(__file__).parent.parent / "results" / "micro"
DESK = {"viewport": {"width": 1280, "height": 900}}
LOOKS: dict[str, dict[str, Any]] = {
    "light": DESK | {"color_scheme": "light"},
    "dark": DESK | {"color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "has_touch": True},
}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    study = make_study(folder, runs=2, samples=30)
    file = folder / "report.html"
    file.write_text(page(gather(Wanted("made-up", study), JudgeOptions())), encoding="utf-8")
    return file


@pytest.fixture
def desk(report: Path) -> Iterator[Opened]:
    with opened(report, **LOOKS["light"]) as found:
        found.page.wait_for_selector(".sample")
        yield found


@pytest.mark.parametrize("look", LOOKS)
def test_charts_are_drawn_and_nothing_leaves_the_file(report: Path, look: str) -> None:
    with opened(report, **LOOKS[look]) as found:
        found.page.wait_for_selector(".sample")
        width = "narrow" if look == "phone" else "wide"
        drawings = found.page.locator(f".drawing svg.{width}")
        assert drawings.count() == 6
        for i in range(drawings.count()):
            assert drawings.nth(i).is_visible()
            marks = drawings.nth(i).locator(".mark")
            boxes = [marks.nth(j).bounding_box() for j in range(0, marks.count(), 7)]
            assert boxes and any(box and box["width"] > 1 and box["height"] > 1 for box in boxes)
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        found.page.screenshot(path=str(SCREENSHOTS / f"{look}.png"), full_page=True)
        assert found.requests == [report.absolute().as_uri()]
        assert found.errors == []


@pytest.mark.parametrize("look", LOOKS)
def test_axe_finds_no_serious_fault(report: Path, look: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    with opened(report, **LOOKS[look]) as found:
        found.page.wait_for_selector(".sample")
        found.page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
        results = Axe().run(found.page)
        serious = {
            violation["id"]: [node["html"][:200] for node in violation["nodes"]][:3]
            for violation in results.response["violations"]
            if violation["impact"] in ("serious", "critical")
        }
        assert serious == {}


@pytest.mark.parametrize("look", LOOKS)
def test_page_is_never_wider_than_its_window(report: Path, look: str) -> None:
    with opened(report, **LOOKS[look]) as found:
        found.page.wait_for_selector(".sample")
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert found.page.evaluate(wide) <= 0


def count(desk: Opened) -> int:
    return int(desk.page.locator("#found").inner_text().split()[0].replace(",", ""))


def test_filters_agree_with_the_heatmap(desk: Opened) -> None:
    cell = desk.page.locator('button.cell[data-strategy="llm"][data-benchmark="color"]').nth(1)
    lost = int(cell.locator("small").inner_text().split()[0].lstrip("−"))
    cell.click()
    found = 0
    for run in ("llm, run 0", "llm, run 1"):
        desk.page.select_option("#f-view", label=run)
        assert (
            desk.page.locator("#f-benchmark").evaluate("e => e.selectedOptions[0].text") == "color"
        )
        found += count(desk)
    assert found == lost > 0
    ids = desk.page.locator(".sample .name").all_inner_texts()
    assert ids and all(name.startswith("color · ") for name in ids)
    desk.page.select_option("#f-change", "")
    assert count(desk) == 30


def test_paths_changes_and_kinds_filter(desk: Opened) -> None:
    page = desk.page
    page.select_option("#f-change", "")
    page.select_option("#f-path", "")
    everything = count(desk)
    assert everything == 300
    changes = {}
    for change in ("lost", "form", "knowledge", "gained", "kept", "wrong"):
        page.select_option("#f-change", change)
        changes[change] = count(desk)
    assert changes["form"] + changes["knowledge"] == changes["lost"] > 0
    parts = (changes[c] for c in ("lost", "gained", "kept", "wrong"))
    assert sum(parts) == everything
    page.select_option("#f-change", "lost")
    page.select_option("#f-path", "101")
    recovered = count(desk)
    page.select_option("#f-path", "100")
    assert recovered + count(desk) == changes["lost"]
    page.select_option("#f-path", "")
    page.select_option("#f-kind", label="integer")
    assert 0 < count(desk) < changes["lost"]


def test_search_finds_words_of_answers(desk: Opened) -> None:
    desk.page.select_option("#f-change", "")
    from playwright.sync_api import expect

    desk.page.fill("#f-search", "PICTURE 7?")
    expect(desk.page.locator("#found")).to_have_text("10 samples")
    desk.page.fill("#f-search", "no such words")
    expect(desk.page.locator("#found")).to_have_text("0 samples")


def test_pages_turn(desk: Opened) -> None:
    desk.page.select_option("#f-change", "")
    first = desk.page.locator(".sample .name").first.inner_text()
    assert desk.page.locator("#previous").is_disabled()
    desk.page.click("#next")
    assert desk.page.locator("#page-number").inner_text() == "2 of 15"
    assert desk.page.locator(".sample .name").first.inner_text() != first


def test_keyboard_reaches_everything(desk: Opened) -> None:
    page = desk.page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    mark = page.locator("#chart-course svg.wide .mark[tabindex='0']")
    mark.focus()
    first = page.locator("#tip").inner_text()
    page.keyboard.press("ArrowRight")
    second = page.locator("#tip").inner_text()
    assert page.locator("#tip").is_visible() and first != second and "llm" in second
    page.keyboard.press("Escape")
    assert page.locator("#tip").is_hidden()
    cells = page.locator("table.heat").first.locator("button.cell")
    assert cells.and_(page.locator("[tabindex='0']")).count() == 1
    cells.first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.dataset.stage") == "2"
    assert page.evaluate("document.activeElement.dataset.benchmark") == "count"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "f-view"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "f-benchmark"


def test_themes_can_be_chosen(desk: Opened) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    light = desk.page.evaluate(ground)
    desk.page.check("input[value='dark']")
    assert desk.page.evaluate(ground) != light


def test_hostile_answers_are_text_and_nothing_runs(tmp_path: Path) -> None:
    study = make_study(tmp_path, "hostile", runs=1, samples=24, strategies=2, hostile=True)
    file = tmp_path / "hostile.html"
    text = page(gather(Wanted("hostile", study), JudgeOptions()))
    file.write_text(text, encoding="utf-8")
    with opened(file, **LOOKS["light"]) as found:
        browser = found.page
        browser.wait_for_selector(".sample")
        browser.select_option("#f-change", "")
        for words in (
            "<script>document.title",
            "</script>",
            "onerror=",
            "{{7*7}}",
            "⟨u+202e⟩",
            "aaaaa",
        ):
            browser.fill("#f-search", words)
            browser.wait_for_timeout(300)
            assert count(found) > 0, words
            assert words in browser.locator("#list").inner_text().lower()
        assert "hostile" in browser.title()
        assert browser.evaluate("window.owned === undefined")
        assert browser.locator("#list script, #list img").count() == 0
        assert found.requests == [file.absolute().as_uri()] and found.errors == []


def test_policy_stops_a_script_that_slipped_in(report: Path, tmp_path: Path) -> None:
    file = tmp_path / "slipped.html"
    slipped = '<script>window.owned = 1</script><img src="https://example.org/x.png" alt="">'
    text = report.read_text(encoding="utf-8").replace("<main>", f"<main>{slipped}")
    file.write_text(text, encoding="utf-8")
    with opened(file) as found:
        found.page.wait_for_selector(".sample")
        assert found.page.evaluate("window.owned === undefined")
        assert any("Content Security Policy" in error for error in found.errors)


@pytest.mark.parametrize("look", LOOKS)
def test_a_base_alone_can_be_looked_through(tmp_path: Path, look: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    study = make_study(tmp_path, "alone", strategies=0, samples=3)
    file = tmp_path / "alone.html"
    file.write_text(page(gather(Wanted("alone", study), JudgeOptions())), encoding="utf-8")
    with opened(file, **LOOKS[look]) as found:
        found.page.wait_for_selector(".sample")
        assert count(found) == 30
        first = found.page.locator(".sample").first
        assert first.locator(".steps li").count() == 1
        assert first.locator(".said").inner_text()
        for hidden in ("stage", "change", "path"):
            assert found.page.locator(f"#f-{hidden}").is_hidden()
        found.page.select_option("#f-benchmark", label="color")
        assert count(found) == 3
        assert found.page.locator("#headline table tbody tr").count() == 10
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert found.page.evaluate(wide) <= 0
        assert found.errors == []
        results = Axe().run(found.page).response["violations"]
        assert [v["id"] for v in results if v["impact"] in ("serious", "critical")] == []
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        found.page.screenshot(path=str(SCREENSHOTS / f"alone-{look}.png"), full_page=True)


def test_printed_form_needs_no_script(tmp_path: Path) -> None:
    study = make_study(tmp_path, runs=1, samples=8, strategies=2)
    content = gather(Wanted("made-up", study, samples=False), JudgeOptions())
    file = tmp_path / "print.html"
    file.write_text(page(content, Form(printed=True)), encoding="utf-8")
    with opened(file, java_script_enabled=False) as found:
        pdf = found.page.pdf(path=str(SCREENSHOTS / "report.pdf"))
        assert pdf.startswith(b"%PDF") and found.errors == []


def test_picture_of_the_first_screen(report: Path, tmp_path: Path) -> None:
    picture(report, tmp_path / "docs" / "report.png")
    assert (tmp_path / "docs" / "report.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.skipif(
    not (MICRO / "study.json").is_file(), reason="results/micro: run `make results`"
)
def test_the_micro_study(tmp_path: Path) -> None:
    from axe_playwright_python.sync_playwright import Axe

    file = tmp_path / "micro.html"
    file.write_text(page(gather(Wanted("micro", MICRO), JudgeOptions())), encoding="utf-8")
    assert file.stat().st_size < 3_000_000
    with opened(file, **LOOKS["light"]) as found:
        found.page.wait_for_selector(".sample")
        drawings = found.page.locator(".drawing svg.wide")
        names = found.page.locator("figure.chart").evaluate_all("all => all.map(f => f.id)")
        assert {"chart-plane", "chart-course", "chart-split", "chart-rates"} <= set(names)
        for i in range(drawings.count()):
            assert drawings.nth(i).locator(".mark").count() > 0
        found.page.select_option("#f-change", "lost")
        assert count(found) > 0
        assert found.requests == [file.absolute().as_uri()] and found.errors == []
        results = Axe().run(found.page).response["violations"]
        assert [v["id"] for v in results if v["impact"] in ("serious", "critical")] == []


BUILD = """
import json, sys, time
from pathlib import Path
from harness.analysis import JudgeOptions
from harness.report import output
from harness.report.content import Wanted
start = time.process_time()
folder = Path(sys.argv[1])
output.write(Wanted("big", folder), JudgeOptions(), Path(sys.argv[2]), "html", None)
status = open("/proc/self/status").read()  # ru_maxrss would count the parent of the fork
peak = int(status.split("VmHWM:")[1].split()[0])
print(json.dumps({"seconds": time.process_time() - start, "peak_mb": peak / 1024}))
"""


def test_two_hundred_thousand_answers(tmp_path: Path) -> None:
    # 4 strategies x 3 runs x 4 stages and the base = 49 checkpoints, 10 benchmarks of 409 samples.
    study = make_study(tmp_path, "big", runs=3, samples=409)
    file = tmp_path / "big.html"
    built = subprocess.run(
        [sys.executable, "-c", BUILD, str(study), str(file)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    cost = json.loads(built.stdout)
    assert cost["seconds"] < 60 and cost["peak_mb"] < 2000, cost
    assert file.stat().st_size < 15_000_000
    with opened(file, **LOOKS["light"]) as found:
        # Milliseconds since the navigation began: loading, unpacking, the first page of samples.
        # The best of three, since other work on the machine is none of the page's.
        openings = []
        for _ in range(3):
            found.page.reload()
            found.page.wait_for_selector(".sample")
            openings.append(found.page.evaluate("performance.now()"))
        opening = min(openings)
        slowest = found.page.evaluate(
            """() => {
              let slowest = 0;
              for (const [id, value] of [["change", ""], ["path", "101"], ["benchmark", "3"], ["path", ""]]) {
                const select = document.getElementById(`f-${id}`);
                const start = performance.now();
                select.value = value;
                select.dispatchEvent(new Event("change"));
                slowest = Math.max(slowest, performance.now() - start);
              }
              return slowest;
            }"""
        )
    print(f"built {cost}, {file.stat().st_size / 1e6:.1f} MB, opened in {opening:.0f} ms, "
          f"slowest filter {slowest:.0f} ms")  # fmt: skip
    # The aim is 2 s each; five times that is allowed to a machine that is busy.
    assert opening < 10_000 and slowest < 10_000
