"""The report of a probed study: its charts hold the numbers of `drift`, and it opens in a browser."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from report_browser import INSTALL, chromium, opened
from report_study import make_study
from test_drift_probe import (  # noqa: F401  (fixtures)
    mostly_a,
    place,
    planted,
    right,
)
from test_report_browser import LOOKS, SCREENSHOTS

from harness.analysis import JudgeOptions, measured
from harness.analysis.drift import Explanation
from harness.report import markdown
from harness.report.content import Content, Wanted, gather
from harness.report.drift_charts import split
from harness.report.html import page
from harness.report.measure_charts import measured as charts_of
from harness.report.view import View
from harness.scoring.study import read_diagnostics, read_scores

pytestmark = pytest.mark.slow

PROBED = ("choices", "rates", "forced", "divergence", "free-running")


@pytest.fixture
def told(planted: Callable[..., Explanation], place: Path) -> tuple[Explanation, Content]:  # noqa: F811
    """Letters that shift while the options are known, and numbers on the base's answers."""
    found = planted("told", mostly_a, right, llm1=0.5, sa1=0.1)
    return found, gather(Wanted("told", place / "results" / "told"), JudgeOptions())


def drawn(content: Content, chart: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = content.charts[chart].spec("wide")["data"]["values"]
    return rows


def test_charts_hold_the_numbers_of_drift(told: tuple[Explanation, Content]) -> None:
    found, content = told
    table = found.table[(found.table["benchmark"] == "held_out")
                        & (found.table["contrast"] == "base_to_stage")]  # fmt: skip
    table = table.set_index(["strategy", "stage", "measure"])
    seen = set()
    for chart, kind, measure in (
        ("choices", "by the likelihood of the options", "choice_accuracy"),
        ("choices", "form: the rest of the change", "choice_gap"),
        ("forced", "numbers", "forced_number_mass"),
        ("free-running", "numbers", "free_number_mass"),
        ("divergence", "KL(base ‖ model)", "kl_forward"),
        ("divergence", "KL(model ‖ base)", "kl_reverse"),
        ("rates", "bare-number answers", "bare_number"),
    ):
        for row in drawn(content, chart):
            if not row["stage"] or kind not in (row.get("kind"), row.get("measure")):
                continue
            at = (row["strategy"], row["stage"], measure)
            got = row["delta"], row["low"], row["high"]
            if at not in table.index:  # drift has no row for what never occurs
                assert got[0] == 0 and got[1] < 0 < got[2]
                continue
            assert got == pytest.approx(
                table.loc[at, ["shift", "ci_low", "ci_high"]].to_numpy(float)
            )
            seen.add(measure)
    assert len(seen) == 6  # nothing answers with bare numbers here
    dip = next(r for r in drawn(content, "forced") if (r["strategy"], r["stage"]) == ("llm", 1))
    assert dip["low"] < dip["delta"] < dip["high"] and dip["delta"] == pytest.approx(24)
    assert "2.0 → 26.0 %; +24.0 pp [" in dip["says"]


def test_both_parts_of_a_loss_of_options_add_up_to_it(told: tuple[Explanation, Content]) -> None:
    _, content = told
    shown = content.view.measured_of("llm", "generated_accuracy").set_index("stage")["shift"]
    rows = [row for row in drawn(content, "choices") if row["strategy"] == "llm"]
    for stage, whole in shown.items():
        parts = [row["delta"] for row in rows if row["stage"] == stage]
        assert len(parts) == 2 and sum(parts) == pytest.approx(whole)
    form = next(r for r in rows if r["stage"] == 1 and r["kind"].startswith("form"))
    assert form["high"] < 0 and form["delta"] == pytest.approx(-50, abs=10)
    # A part that never occurs has limits too: it was not seen, which is not to say it is not.
    still = [r for r in drawn(content, "choices") if r["delta"] == 0]
    assert still and all(r["low"] < 0 < r["high"] for r in still)


def test_bars_of_the_split_have_the_limits_of_the_deltas(told: tuple[Explanation, Content]) -> None:
    _, content = told
    columns = {"knowledge (essential)": "essential", "form only (superficial)": "superficial"}
    for row in drawn(content, "split"):
        changes = content.view.of(row["strategy"], "held_out").set_index("to_stage")
        change = changes.loc[row["stage"]]
        part = columns[row["kind"]]
        ends = ("pp", "ci_low_pp", "ci_high_pp")
        assert [row["delta"], row["low"], row["high"]] == [change[f"{part}_{end}"] for end in ends]
    layers = content.charts["split"].spec("wide")["spec"]["layer"]
    assert [layer["encoding"].get("y2") for layer in layers].count({"field": "high"}) == 2


def test_nothing_is_drawn_where_nothing_was_probed(tmp_path: Path) -> None:
    folder = make_study(tmp_path, runs=1, samples=8, strategies=1)
    scores = read_scores(folder)
    assert read_diagnostics(scores, folder) is scores
    content = gather(Wanted("made-up", folder), JudgeOptions())
    assert not set(PROBED) & set(content.charts)
    text = page(content)
    assert not any(f'id="chart-{name}"' in text for name in PROBED)
    assert "Probe" not in text and "likelihood of options" not in text


def test_a_stage_that_lacks_a_benchmark_is_left_out(
    told: tuple[Explanation, Content],
    place: Path,  # noqa: F811
) -> None:
    _, content = told
    folder = place / "results" / "told"
    scores = read_diagnostics(read_scores(folder), folder)
    bench = scores.benchmarks["color"]
    gone = next(j for j, key in enumerate(bench.columns) if (key.strategy, key.stage) == ("llm", 2))
    values = bench.rates["kl_forward"].copy()
    values[:, gone] = np.nan
    partly = replace(bench, rates={**bench.rates, "kl_forward": values})
    frame = measured(replace(scores, benchmarks={**scores.benchmarks, "color": partly}))
    stages = frame[frame["measure"] == "kl_forward"].groupby("strategy")["stage"].apply(list)
    assert stages.to_dict() == {"llm": [1], "sa_proj": [1, 2]}
    chart = next(
        c for c in charts_of(View(content.view.judgement, frame)) if c.name == "divergence"
    )
    assert chart.table.set_index(["Measure", "Strategy"]).loc[
        ("KL(base ‖ model)", "llm"), "2 place"
    ] == "NA"  # fmt: skip
    assert list(charts_of(View(content.view.judgement, pd.DataFrame()))) == []


def test_a_change_of_which_one_part_is_known_is_not_taken_apart(
    told: tuple[Explanation, Content],
) -> None:
    """As where one of lm-eval's tasks, which has one metric, is among those held out."""
    _, content = told
    deltas = content.view.judgement.deltas.copy()
    deltas.loc[deltas["to_stage"] == 2, "superficial_pp"] = np.nan
    chart = split(View(replace(content.view.judgement, deltas=deltas)))
    assert chart is not None
    assert {row["stage"] for row in chart.spec("wide")["data"]["values"]} == {1}
    deltas["superficial_pp"] = np.nan
    assert split(View(replace(content.view.judgement, deltas=deltas))) is None


def test_the_markdown_report_has_the_same_tables(told: tuple[Explanation, Content]) -> None:
    text = markdown.text(told[1])
    for name in PROBED:
        if name in told[1].charts:
            assert f"## {told[1].charts[name].title}" in text
    assert "| superficial | essential |" in text and "\\[" in text


@pytest.mark.skipif(chromium() is None, reason=INSTALL)
@pytest.mark.parametrize("look", LOOKS)
def test_the_probed_page_in_a_browser(
    told: tuple[Explanation, Content], tmp_path: Path, look: str
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    file = tmp_path / "told.html"
    file.write_text(page(told[1]), encoding="utf-8")
    with opened(file, **LOOKS[look]) as found:
        found.page.wait_for_selector(".sample")
        width = "narrow" if look == "phone" else "wide"
        for name in ("split", "choices", "forced", "divergence", "free-running"):
            drawing = found.page.locator(f"#chart-{name} .drawing svg.{width}")
            assert drawing.is_visible() and drawing.locator(".mark").count() > 3
            assert found.page.locator(f"#chart-{name} details table").count() == 1
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert found.page.evaluate(wide) <= 0
        found.page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        found.page.screenshot(path=str(SCREENSHOTS / f"probed-{look}.png"), full_page=True)
        results = Axe().run(found.page).response["violations"]
        assert [v["id"] for v in results if v["impact"] in ("serious", "critical")] == []
        assert found.requests == [file.absolute().as_uri()] and found.errors == []
