"""The report without a browser: its numbers, its escaping, its files."""

from __future__ import annotations

import base64
import csv
import gzip
import hashlib
import io
import json
import math
import re
import shutil
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from replay import ReplayEngine, write_checkpoint
from report_study import HOSTILE, make_study
from typer.testing import CliRunner

from harness import engines, study
from harness.analysis import JudgeOptions
from harness.cli import app
from harness.errors import ResultsError
from harness.report import drawing, foreign_text, latex, markdown, output, provenance
from harness.report.answers import choose, collect
from harness.report.chart import WIDTHS
from harness.report.content import Content, Wanted, colour_step, gather
from harness.report.csv_files import write_csv_files
from harness.report.html import Form, page
from harness.report.live import Quiet
from harness.report.thumbnails import thumbnails
from harness.report.words import WordReader
from harness.scoring.study import read_scores
from harness.types import Checkpoint, Request


def wanted(folder: Path, **changes: Any) -> Wanted:
    return Wanted(folder.name, folder, **changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_study(tmp_path_factory.mktemp("results"), runs=2, samples=10, strategies=2)


@pytest.fixture(scope="module")
def content(folder: Path) -> Content:
    return gather(wanted(folder), JudgeOptions())


@pytest.fixture(scope="module")
def text(content: Content) -> str:
    return page(content)


def samples_of(text: str) -> dict[str, Any]:
    packed = re.search(r'id="packed">([^<]*)<', text)
    assert packed is not None
    return dict(json.loads(gzip.decompress(base64.b64decode(packed[1]))))


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


# --- Numbers -------------------------------------------------------------------------------------


def test_leaderboard_on_the_page_equals_the_csv(
    content: Content, text: str, tmp_path: Path
) -> None:
    write_csv_files(content.view.judgement, tmp_path)
    for row in rows_of(tmp_path / "leaderboard.csv"):
        found = re.search(rf'<tr data-strategy="{row["strategy"]}">(.*?)</tr>', text, re.DOTALL)
        assert found is not None
        cells = re.findall(r'<td data-key="(\w+)"><data value="([^"]*)">([^<]*)<', found[1])
        assert len(cells) == 10
        for key, exact, shown in cells:
            assert exact == row[key], key
            if exact != "NA":
                assert float(shown.replace("−", "-")) == pytest.approx(float(exact), abs=0.0501)


def test_heatmap_on_the_page_equals_the_csv(content: Content, text: str, tmp_path: Path) -> None:
    write_csv_files(content.view.judgement, tmp_path)
    deltas = {
        (row["strategy"], row["benchmark"], row["to_stage"]): row["delta_pp"]
        for row in rows_of(tmp_path / "deltas.csv")
        if row["contrast"] == "base_to_stage" and row["run"] == "mean"
    }
    cells = re.findall(
        r'data-strategy="(\w+)" data-benchmark="(\w+)" data-stage="(\d)".*?<data value="([^"]*)"',
        text,
    )
    assert len(cells) == 2 * 10 * 4
    assert all(deltas[strategy, bench, stage] == value for strategy, bench, stage, value in cells)


def test_charts_hold_the_deltas(content: Content) -> None:
    drawn = content.charts["course"].spec("wide")["data"]["values"]
    judged = content.view.judgement.deltas
    judged = judged[(judged["run"] == "mean") & (judged["contrast"] == "base_to_stage")]
    judged = judged[judged["benchmark"] == "held_out"]
    expected = {(r.strategy, r.to_stage): r.delta_pp for r in judged.itertuples()}
    found = {(r["strategy"], r["stage"]): r["delta"] for r in drawn if r["stage"] > 0}
    assert found == pytest.approx(expected)


def test_checkpoint_paths_end_at_the_leaderboard(content: Content) -> None:
    layers = content.charts["plane"].spec("wide")["layer"]
    paths = next(x["data"]["values"] for x in layers if "stage" in str(x.get("data", "")))
    ends = {row["strategy"]: (row["x"], row["y"]) for row in paths}
    for row in content.view.judgement.leaderboard.itertuples():
        assert ends[row.strategy] == pytest.approx((row.heldout_final_pp, row.learning_pp))


def test_superficial_and_essential_add_up_to_the_change(content: Content) -> None:
    rows = content.charts["split"].spec("wide")["data"]["values"]
    for strategy in content.view.strategies:
        whole = content.view.of(strategy, "held_out").set_index("to_stage")["delta_pp"]
        for stage, delta in whole.items():
            parts = [r["delta"] for r in rows if r["strategy"] == strategy and r["stage"] == stage]
            assert sum(parts) == pytest.approx(delta)


def test_answer_types_sum_to_a_hundred(content: Content) -> None:
    assert content.answers is not None
    totals = content.answers.types.groupby(["strategy", "stage"])["share_pct"].sum()
    assert len(totals) == 2 * 5
    assert np.allclose(totals, 100)


def test_colours_show_small_changes_beside_large_ones() -> None:
    assert [colour_step(d, 90.0) for d in (-90, -11, -2, -0.1, 0, 2)] == [-5, -2, -1, 0, 0, 1]


# --- Charts --------------------------------------------------------------------------------------


def test_every_chart_has_words_a_table_and_labelled_marks(content: Content) -> None:
    assert {"plane", "course", "split", "heatmap", "answer-types"} <= set(content.charts)
    for chart in content.charts.values():
        assert chart.title and re.search(r"\d", chart.summary)
        assert len(chart.table) > 0
        for width in WIDTHS:
            root = ElementTree.fromstring(drawing.page_svg(chart, width))
            marks = [e for e in root.iter() if e.get("class") == "mark"]
            assert marks, chart.name
            assert all(e.get("aria-label") for e in marks)
            assert sum(e.get("tabindex") == "0" for e in marks) == 1


def test_page_drawings_use_the_colours_of_the_page_only(content: Content) -> None:
    for name, chart in content.charts.items():
        if name != "heatmap":  # its colours are mixed; the page shows a table
            assert "#" not in drawing.page_svg(chart, "wide").replace("url(#", "")


# --- Foreign text --------------------------------------------------------------------------------


@given(st.text(max_size=60))
def test_visible_text_hides_nothing(text: str) -> None:
    shown = foreign_text.visible(text, 50)
    assert all(character.isprintable() or character in "\n\t" for character in shown)


def test_long_text_is_cut_and_says_so() -> None:
    assert foreign_text.visible("A" * 100_000, 300).endswith("[99,700 more characters]")


def test_hostile_words_stay_text(tmp_path: Path) -> None:
    folder = make_study(tmp_path, "hostile", runs=1, samples=12, strategies=1, hostile=True)
    text = page(gather(wanted(folder), JudgeOptions()))
    assert text.count("<script") == 2  # the samples' data and the one script
    assert "owned" not in text and "onerror" not in text
    texts = [t for bench in samples_of(text)["benchmarks"] for t in bench["texts"]]
    joined = "\n".join(texts)
    assert all(word in joined for word in HOSTILE[:4])
    assert "\u202e" not in joined and "⟨U+202E⟩" in joined and "␛[31m" in joined
    assert max(map(len, texts)) < 400


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    name = '<img src=x onerror="a()">{{7*7}}&'
    rows = [
        {"strategy": s, "stage": t, "benchmark": name, "sample_id": f"{name}{i}", "score": i % 2,
         "stage_name": name, "role": "held_out", "response": name, "question": name}
        for s, t in (("base", 0), (name, 1)) for i in range(6)
    ]  # fmt: skip
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    from harness.interop.score_files import import_scores

    folder = import_scores(file, "names", tmp_path, base_model=name).folder
    content = gather(wanted(folder), JudgeOptions())
    text = page(content)
    assert "<img" not in text
    assert "&lt;img src=x" in text and "{{7*7}}" in unescape(text)
    assert "<img" not in markdown.text(content)


def test_policy_names_the_one_script_and_the_one_style(text: str) -> None:
    policy = re.search(r'Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    allowed = unescape(policy[1])
    for tag in ("style", "script"):
        inside = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert len(inside) == 1
        digest = base64.b64encode(hashlib.sha256(inside[0].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in allowed
    assert "default-src 'none'" in allowed and "unsafe" not in allowed
    assert not re.search(r'(?:src|href)="(?!#)', text)
    assert " style=" not in text


@pytest.mark.parametrize(
    ("word", "safe"),
    [("a_b & 5 %", r"a\_b \& 5 \%"), ("\\input{x}", r"\textbackslash{}input\{x\}")],
)
def test_latex_is_escaped(word: str, safe: str) -> None:
    assert latex.escape(word) == safe


# --- Samples -------------------------------------------------------------------------------------


def test_sample_payload_equals_the_study(content: Content, text: str, folder: Path) -> None:
    payload = samples_of(text)
    scores = read_scores(folder)
    bench = payload["benchmarks"][0]
    name = bench["name"]
    assert scores.texts is not None
    for column, stage in enumerate(scores.stages):
        for i, sample in enumerate(bench["ids"]):
            said = bench["texts"][bench["answers"][column][i]]
            assert said == scores.texts.response(stage.key, name, sample)
            index = list(scores.benchmarks[name].sample_ids).index(sample)
            value = scores.benchmarks[name].values["strict"][index, column]
            assert bench["scores"]["strict"][column][i] == round(100 * value)
    assert [len(view["columns"]) for view in payload["views"]] == [5] * 4


def test_where_not_all_fit_changed_samples_come_first(folder: Path) -> None:
    scores = read_scores(folder)
    chosen = choose(scores, "strict", max_rows=4 * 10 * len(scores.stages))
    for name, bench in scores.benchmarks.items():
        assert len(chosen[name].shown) == 4
        assert set(chosen[name].even) <= set(chosen[name].shown)
        values = bench.values["strict"]
        changed = {i for i in range(10) if len(set(values[i])) > 1}
        extra = set(chosen[name].shown) - set(chosen[name].even)
        assert extra <= changed or not (changed - set(chosen[name].even) - extra)


def test_a_choice_of_samples_keeps_ids_and_answers_together(folder: Path) -> None:
    scores = read_scores(folder)
    chosen = choose(scores, "strict", max_rows=3 * 10 * len(scores.stages))
    answers = collect(scores, WordReader(scores, folder), chosen, {})
    assert (answers.n_shown, answers.n_samples) == (30, 100)
    bench = answers.payload["benchmarks"][0]
    for sample, question in zip(bench["ids"], bench["questions"], strict=True):
        assert f"picture {int(sample[-4:])}?" in bench["texts"][question]


def test_long_texts_mean_fewer_samples(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.report.content.MAX_CHARACTERS", 2000)
    monkeypatch.setattr("harness.report.content.charts_of", lambda view, types: [])
    content = gather(wanted(folder), JudgeOptions())
    assert content.answers is not None
    assert 10 <= content.answers.n_shown < 100 and content.answers.n_characters <= 2000
    assert "spread, half of those whose score changed" in page(content)


# --- Studies with little to show -----------------------------------------------------------------


def little(tmp_path: Path, rows: list[dict[str, Any]]) -> Content:
    from harness.interop.score_files import import_scores

    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return gather(wanted(import_scores(file, "little", tmp_path).folder), JudgeOptions())


def test_a_base_alone_is_shown_and_what_is_lacking_said(tmp_path: Path) -> None:
    folder = make_study(tmp_path, "alone", strategies=0, samples=6)
    content = gather(wanted(folder), JudgeOptions())
    assert content.charts == {} and content.base is not None
    scores = read_scores(folder)
    assert [row[0] for row in content.base.rows] == list(scores.benchmarks)
    for name, _, score, limits, n, scorer in content.base.rows:
        values = scores.benchmarks[name].values["strict"]
        assert (score, n, scorer) == (f"{100 * values.mean():.1f}", "6", "strict")
        assert limits.startswith("[") and "+" not in limits
    for text in (page(content), markdown.text(content)):
        assert "Only the base has scores: there are no stages yet" in text
        assert "Leaderboard" not in text and "Change against the base" not in text
    text = page(content)
    assert text.count("<p>No stages yet") == 4
    assert "four times out of five" not in text and "cannot be taken apart" not in text
    views = samples_of(text)["views"]
    assert [(v["strategy"], v["columns"], v["start"]) for v in views] == [("base", [0], 0)]


def test_names_of_many_stages_are_thinned_out(tmp_path: Path) -> None:
    rows = [
        {"strategy": s, "stage": t, "benchmark": b, "sample_id": str(i), "score": (i + t) % 2,
         "role": "held_out", "stage_name": f"skill{t}", "response": "x"}
        for s, stages in (("base", [0]), ("llm", range(1, 31)), ("mlp", range(1, 31)))
        for t in stages for b in "abcd" for i in range(4)
    ]  # fmt: skip
    content = little(tmp_path, rows)
    names = [place.label for place in content.view.places]
    assert len(names) == 31
    shown = {}
    for width in WIDTHS:
        panels = content.charts["multiples-held-out"].spec(width)["spec"]
        x = panels["layer"][-1]["encoding"]["x"]
        assert x["scale"]["domain"] == names  # every stage is drawn
        shown[width] = x["axis"]["values"]
        assert shown[width][:1] == ["base"]
        # Two lines of text, slanted by 35 degrees, are 13 pixels apart.
        assert panels["width"] / len(shown[width]) >= 13 / math.sin(math.radians(35))
        for chart in content.charts.values():
            drawing.svg(chart.spec(width))
    assert len(shown["wide"]) == 8 and len(shown["narrow"]) == 5
    heat = content.charts["heatmap"].spec("wide")["spec"]
    assert [layer["mark"]["type"] for layer in heat["layer"]] == ["rect"]


def test_few_stages_are_all_named(content: Content) -> None:
    for width in WIDTHS:
        layers = content.charts["multiples-held-out"].spec(width)["spec"]["layer"]
        assert "values" not in layers[-1]["encoding"]["x"]["axis"]
        heat = content.charts["heatmap"].spec(width)["spec"]
        assert [layer["mark"]["type"] for layer in heat["layer"]] == ["rect", "text"]


def test_an_import_is_made_again_where_the_next_commands_look(folder: Path) -> None:
    commands = gather(wanted(folder, results=folder.parent), JudgeOptions()).provenance.commands
    assert all(f"--results {folder.parent.name}" in line for line in commands)
    commands = gather(wanted(folder), JudgeOptions()).provenance.commands
    assert not any("--results" in line for line in commands)


def test_one_stage_without_words_or_targets(tmp_path: Path) -> None:
    rows = [
        {"strategy": s, "stage": t, "benchmark": "b", "sample_id": str(i), "score": i % 2,
         "role": "held_out"}
        for s, t in (("base", 0), ("llm", 1)) for i in range(6)
    ]  # fmt: skip
    content = little(tmp_path, rows)
    assert "plane" not in content.charts  # nothing was taught
    assert "course" in content.charts
    text = page(content)
    assert "answer-types" not in content.charts and "cannot be taken apart" in text
    assert math.isnan(content.cards[0].learning_pp) and 'value="NA">NA<' in text


def test_a_missing_cell_is_na_and_not_zero(tmp_path: Path) -> None:
    rows = [
        {"strategy": s, "stage": t, "benchmark": b, "sample_id": str(i), "score": i % 2,
         "role": "held_out", "response": "x"}
        for s, t in (("base", 0), ("llm", 1), ("llm", 2)) for b in ("one", "two")
        for i in range(6) if (b, t) != ("two", 2)
    ]  # fmt: skip
    content = little(tmp_path, rows)
    row = next(row for row in content.heat[0].rows if row.benchmark == "two")
    assert [cell.says == "NA" for cell in row.cells] == [False, True]
    assert '<span class="cell none">NA</span>' in page(content)


def test_audit_is_shown_where_it_was_made(content: Content, tmp_path: Path) -> None:
    file = tmp_path / "audit.csv"
    file.write_text("stage,verdict\nllm@1,<b>MISMATCH</b>\n", encoding="utf-8")
    table = provenance.audit(file)
    made = replace(content, charts={}, provenance=replace(content.provenance, audit=table))
    text = page(made)
    assert "&lt;b&gt;MISMATCH" in text and "Not made" not in text
    assert "Not made" in page(replace(content, charts={}))


# --- A study of our own, with pictures and failures ------------------------------------------------

MANIFEST = """
study: tiny
base: ckpt/base
suite:
  held_out: [words]
  tasks: {words: {path: words.parquet, scorer: exact, columns: {group: picture}}}
strategies:
  llm: {stages: [{trained_on: words, path: ckpt/one}, {path: ckpt/two, name: later}]}
"""


@pytest.fixture
def native(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A manifest that was scored by a replayed engine: later stages count instead of naming."""
    for number, name in enumerate(("base", "one", "two")):
        write_checkpoint(tmp_path / "ckpt" / name, number)
    pictures = []
    for shade in range(10):
        data = io.BytesIO()
        Image.new("RGB", (300, 200), (25 * shade, 0, 0)).save(data, "PNG")
        pictures.append({"bytes": data.getvalue(), "path": None})
    rows = [
        {"image": pictures[i // 2], "question": f"{i}?", "answer": "red", "id": str(i),
         "picture": str(i // 2)}
        for i in range(20)
    ]  # fmt: skip
    pd.DataFrame(rows).to_parquet(tmp_path / "words.parquet")
    manifest = tmp_path / "study.yaml"
    manifest.write_text(MANIFEST.replace("trained_on: words, ", "name: first, "))

    def answer(checkpoint: Checkpoint, request: Request) -> str:
        counts = not checkpoint.path.endswith("base") and int(request.sample_id) < 12
        return "3" if counts else "red"

    monkeypatch.setattr(engines, "create", lambda kind, options: ReplayEngine(answer))
    study.score(study.open_study(manifest, study.Options(results=tmp_path / "results")), Quiet())
    return manifest


def test_a_scored_study_has_pictures_rates_and_settings(native: Path) -> None:
    folder = native.parent / "results" / "tiny"
    content = gather(wanted(folder, manifest=native), JudgeOptions())
    payload = samples_of(page(content))
    assert len(payload["pictures"]) == 10
    assert all(uri.startswith("data:image/jpeg;base64,") for uri in payload["pictures"])
    shown = payload["benchmarks"][0]["pictures"]
    assert sorted(shown) == sorted([i // 2 for i in range(20)])
    assert "10 different pictures" in content.pictures.said
    rates = content.charts["rates"].spec("wide")["data"]["values"]
    assert [row["delta"] for row in rates] == pytest.approx([0, 60, 60])
    assert all(row["low"] < row["delta"] < row["high"] for row in rates[1:])
    assert rates[1]["says"].startswith("llm; bare-number answers; after 1 first; 0.0 → 60.0 %; +60")
    assert content.provenance.settings.rows[0][0] == "words"
    assert [row[3] for row in content.provenance.checkpoints.rows] == ["base", "first", "later"]
    assert content.provenance.commands[0] == "forgeteval score checkpoints.yaml"


def test_a_scored_base_alone_has_its_scores_and_answers(native: Path) -> None:
    manifest = native.with_name("alone.yaml")
    text = MANIFEST.partition("strategies:")[0].replace("study: tiny", "study: alone")
    manifest.write_text(text + "strategies: {}\n", encoding="utf-8")
    study.score(
        study.open_study(manifest, study.Options(results=native.parent / "results")), Quiet()
    )
    content = gather(wanted(native.parent / "results" / "alone", manifest=manifest), JudgeOptions())
    assert content.base is not None
    assert [row[:3] for row in content.base.rows] == [("words", "held-out", "100.0")]
    payload = samples_of(page(content))
    assert [view["columns"] for view in payload["views"]] == [[0]]
    assert -1 not in payload["benchmarks"][0]["answers"][0]


def test_a_sweep_that_is_not_done_is_shown_as_far_as_it_is(native: Path) -> None:
    folder = native.parent / "results" / "tiny"
    record = json.loads((folder / "study.json").read_text())
    owed = record["stages"][2]["cells"]["words"]
    (folder / "cells" / "words" / f"{owed}.parquet").unlink()
    content = gather(wanted(folder), JudgeOptions())
    payload = samples_of(page(content))
    assert [row["stage"] for row in content.charts["rates"].spec("wide")["data"]["values"]] == [
        0,
        1,
    ]
    first, _, last = payload["benchmarks"][0]["answers"]
    assert set(last) == {-1} and -1 not in first
    assert [cell.says == "NA" for cell in content.heat[0].rows[0].cells] == [False, True]


def test_pictures_are_few_and_small(native: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.report.thumbnails.MAX_PICTURES", 3)
    found = thumbnails(native, {"words": [str(i) for i in reversed(range(20))]})
    assert len(found.uris) == 2
    assert set(found.of["words"]) == {"19", "18", "17"}  # 19 and 18 share a picture
    with Image.open(io.BytesIO(base64.b64decode(found.uris[0].split(",")[1]))) as picture:
        assert max(picture.size) == 144


def test_no_pictures_without_local_data(native: Path) -> None:
    (native.parent / "words.parquet").unlink()
    found = thumbnails(native, {"words": ["1"]})
    assert found.uris == () or list(found.uris) == []
    assert found.said.startswith("No pictures") and "words" in found.said


def test_pictures_of_lm_evals_tasks_are_not_said_to_lack_local_data(native: Path) -> None:
    foreign = {"lm_eval:m_feat": ["1"]}
    found = thumbnails(native, {"words": ["1"], **foreign})
    assert len(found.uris) == 1 and "Without local data" not in found.said
    assert "lm-eval reads its tasks' data itself, so without: lm_eval:m_feat." in found.said
    assert thumbnails(native, foreign).said.startswith("No pictures. lm-eval reads its tasks'")


# --- Files and command ---------------------------------------------------------------------------


def test_equal_inputs_give_equal_bytes(content: Content, folder: Path) -> None:
    again = gather(wanted(folder), JudgeOptions())
    few = [
        page(replace(c, charts={"split": c.charts["split"], "plane": c.charts["plane"]}))
        for c in (content, again)
    ]
    assert few[0] == few[1]
    assert {n: c.spec("wide") for n, c in content.charts.items()} == {
        n: c.spec("wide") for n, c in again.charts.items()
    }


def test_printed_form_has_no_script_and_is_unfolded(content: Content) -> None:
    text = page(replace(content, charts={"split": content.charts["split"]}), Form(printed=True))
    assert "<script" not in text and "<details>" not in text
    assert "script-src 'none'" in unescape(text)


def test_watched_page_loads_itself_again(content: Content) -> None:
    assert '<meta http-equiv="refresh" content="30">' in page(
        replace(content, charts={}), Form(reload_seconds=30)
    )


def test_command_writes_page_and_figures(
    content: Content, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = {name: content.charts[name] for name in ("plane", "heatmap")}
    monkeypatch.setattr(output, "gather", lambda wanted, options: replace(content, charts=some))
    out, figures = tmp_path / "r.html", tmp_path / "figures"
    arguments = ["report", str(folder), "-o", str(out), "--figures", str(figures), "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    written = json.loads(result.stdout)
    assert {Path(row["file"]).name for row in written} >= {
        "r.html",
        "plane.svg",
        "plane-narrow.png",
    }
    assert out.stat().st_size < 3_000_000
    for file in figures.glob("*.svg"):
        ElementTree.parse(file)
    assert (figures / "heatmap.png").read_bytes().startswith(b"\x89PNG")
    assert "sa\\_proj" in (figures / "leaderboard.tex").read_text()


def test_command_writes_markdown(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.md"
    result = CliRunner().invoke(app, ["report", str(folder), "-o", str(out), "--format", "md"])
    assert result.exit_code == 0, result.output
    text = out.read_text(encoding="utf-8")
    assert text.startswith("# made-up") and "## Stage by benchmark" in text


def test_unknown_study_is_named(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["report", "nothing", "--results", str(tmp_path)])
    assert "no study 'nothing' here" in str(result.exception)


def test_place_that_cannot_be_written_is_named(
    content: Content, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "gather", lambda wanted, options: replace(content, charts={}))
    (tmp_path / "file").write_text("")
    target = tmp_path / "file" / "report.html"
    with pytest.raises(ResultsError, match=f"{re.escape(str(target))}: cannot be written"):
        output.write(wanted(folder), JudgeOptions(), target, "html", None)


def test_watch_builds_again_when_the_study_changes(
    content: Content, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = []

    def gathered(asked: Wanted, options: JudgeOptions) -> Content:
        built.append(asked)
        if len(built) == 1:
            raise ResultsError("study", "has no base yet")
        return replace(content, charts={})

    naps = iter([None, tmp_path / "audit.csv", None])

    def sleep(seconds: float) -> None:
        file = next(naps, KeyboardInterrupt)
        if file is KeyboardInterrupt:
            raise KeyboardInterrupt
        if isinstance(file, Path):
            file.write_text("stage\n")

    monkeypatch.setattr(output, "gather", gathered)
    monkeypatch.setattr("time.sleep", sleep)
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    result = CliRunner().invoke(app, ["report", str(tmp_path), "--watch"])
    assert result.exit_code == 0, result.output
    assert len(built) == 2
    assert "not yet: study: has no base yet" in result.stderr
    assert 'http-equiv="refresh"' in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_open_shows_the_file(
    content: Content, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(output, "gather", lambda wanted, options: replace(content, charts={}))
    monkeypatch.setattr("typer.launch", seen.append)
    out = tmp_path / "r.html"
    result = CliRunner().invoke(app, ["report", str(folder), "-o", str(out), "--open"])
    assert result.exit_code == 0, result.output
    assert seen == [out.as_uri()]
