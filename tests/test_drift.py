"""Drift on planted studies: stored answers that drift by rule, through the whole road."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from replay import ReplayEngine, write_checkpoint
from typer.testing import CliRunner

from harness import engines, study
from harness.analysis.drift import Explanation, explain
from harness.cli import app
from harness.report.live import Quiet
from harness.scoring.study import read_scores
from harness.scoring.traits import traits_of
from harness.study import Options
from harness.types import Checkpoint, Prediction, Request, Sample

pytestmark = pytest.mark.slow

N = 400
MANIFEST = """
study: planted
base: ckpt/base
suite:
  targets: [count, place]
  held_out: [color, pick]
  tasks:
    count: {path: data/count.parquet, scorer: number}
    place: {path: data/place.parquet, scorer: exact}
    color: {path: data/color.parquet, scorer: exact}
    pick: {path: data/pick.parquet, scorer: choice}
strategies:
  llm:
    stages: [{trained_on: %s, path: ckpt/llm1}, {trained_on: %s, path: ckpt/llm2}]
  sa_proj:
    stages: [{trained_on: %s, path: ckpt/sa1}, {trained_on: %s, path: ckpt/sa2}]
"""
GOLD = {"count": "4", "place": "park", "color": "red"}
# (checkpoint, benchmark, i, gold) -> answer
Rule = Callable[[str, str, int, str], str]


class MassEngine(ReplayEngine):
    """Answers by rule, with a number mass of 0.9 where the answer is a number."""

    def generate(self, requests: Sequence[Request]) -> Iterator[Prediction]:
        for p in super().generate(requests):
            mass = 0.9 if p.text.isdigit() else 0.02
            yield Prediction(p.sample_id, text=p.text, finish_reason="stop", class_mass={
                "number": mass, "letter": 0.01})  # fmt: skip

    log_likelihood = generate


def picture(shade: int) -> dict[str, object]:
    data = io.BytesIO()
    Image.new("RGB", (8, 8), (shade % 256, shade // 256, 0)).save(data, "PNG")
    return {"bytes": data.getvalue(), "path": None}


def gold_of(name: str, i: int) -> str:
    return "ABCD"[i % 4] if name == "pick" else GOLD[name]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planted")
    for number, name in enumerate(("base", "llm1", "llm2", "sa1", "sa2")):
        write_checkpoint(folder / "ckpt" / name, number)
    (folder / "data").mkdir()
    for name in ("count", "place", "color", "pick"):
        rows = [
            {"id": f"{name}-{i}", "image": picture(i), "question": f"{name} {i}?",
             "answer": gold_of(name, i), "choices": ["cat", "dog", "cow", "hen"]}
            for i in range(N)
        ]  # fmt: skip
        pd.DataFrame(rows).to_parquet(folder / "data" / f"{name}.parquet")
    return folder


def planted(
    place: Path, monkeypatch: pytest.MonkeyPatch, name: str, rule: Rule, order=("count", "place")
) -> tuple[Explanation, Path]:
    """A study whose answers follow `rule`, scored and explained."""

    def answer(checkpoint: Checkpoint, request: Request) -> str:
        benchmark, _, i = request.sample_id.partition("-")
        gold = gold_of(benchmark, int(i))
        return rule(Path(checkpoint.path).name, benchmark, int(i), gold)

    monkeypatch.setattr(engines, "create", lambda kind, options: MassEngine(answer))
    text = (MANIFEST % (*order, *order)).replace("planted", name)
    (place / f"{name}.yaml").write_text(text)
    opened = study.open_study(place / f"{name}.yaml", Options(results=place / "results"))
    assert study.score(opened, Quiet()).exit_code == 0
    folder = place / "results" / name
    return explain(read_scores(folder, traits=True)), folder


def stage_of(found: Explanation, strategy: str, t: int):
    return next(s for s in found.stages if s.path.strategy.name == strategy and s.t == t)


def said(found: Explanation, strategy: str, stage: str) -> str:
    start = f"{strategy}, after `{stage}`: "
    return next(line for line in found.sentences() if line.startswith(start)).removeprefix(start)


def numbers_after(stage: str, share: float = 0.4) -> Rule:
    """`stage` under `llm` turns a share of held-out answers into bare numbers, `sa` a tenth."""

    def rule(checkpoint: str, benchmark: str, i: int, gold: str) -> str:
        if benchmark in ("color", "pick"):
            part = {stage: share, stage.replace("llm", "sa"): share / 10}.get(checkpoint, 0.0)
            if (i * 37 % N) < part * N:
                return "3"
        return gold

    return rule


def test_numbers_planted_for_40_percent_are_found_and_told(place, monkeypatch):
    found, folder = planted(place, monkeypatch, "numbers", numbers_after("llm1"))
    dip = stage_of(found, "llm", 1)
    bare = dip.shift("bare_number")
    assert bare and bare.before == 0 and bare.after == pytest.approx(0.4)
    assert bare.change.low < 0.4 < bare.change.high
    assert dip.held_out.delta == pytest.approx(-0.4)
    # A number in a word's place is wrong for the lenient scorer too, but it is a habit of form.
    assert dip.essential.low <= -0.4 <= dip.essential.high
    assert dip.superficial.delta == pytest.approx(0)
    assert dip.form.low < -0.4 < dip.form.high
    assert dip.form.delta == dip.wrong_kind.delta == pytest.approx(-0.4)
    assert (dip.n_lost, dip.n_misfit, dip.style) == (320, 320, "integer")
    mass = dip.shift("number_mass")
    assert mass and mass.after == pytest.approx(0.4 * 0.9 + 0.6 * 0.02) and mass.change.low > 0.3
    less = stage_of(found, "sa_proj", 1).shift("number_mass")
    assert less and less.proven and less.change.high < mass.change.low
    text = said(found, "llm", "count")
    assert text.startswith("held-out −40.0 pp [−4")
    assert "100 % of the held-out loss is format (−40.0 of −40.0 pp [−4" in text
    assert "]: answers of a type that does not fit −40.0); 100 % of the loss on `" in text
    assert "40.0 % of answers to other questions are bare numbers (base 0.0 %)" in text
    assert "number mass 0.02 → 0.37" in text
    assert "recovered at `place` (+40.0 pp" in text
    assert "bare numbers 40.0 → 0.0 %; number mass 37.2 → 2.0 %" in text
    assert "within chance" in said(found, "llm", "place")
    rows = list(csv.DictReader(write(folder)))
    row = next(
        r for r in rows
        if (r["strategy"], r["stage_name"], r["benchmark"]) == ("llm", "count", "color")
        and r["measure"] == "phrase>integer"
    )  # fmt: skip
    assert (row["before"], row["after"], row["shift"]) == ("0.0000", "40.0000", "40.0000")
    parts = {
        (r["contrast"], r["measure"]): float(r["shift"])
        for r in rows
        if (r["strategy"], r["stage_name"], r["benchmark"]) == ("llm", "place", "held_out")
    }
    # What the stage before lost in form came back; against the base nothing is left of it.
    assert parts["previous_to_stage", "form"] == parts["previous_to_stage", "essential"] == 40
    assert parts["base_to_stage", "essential"] == 0
    assert row["unit"] == "percent" and float(row["ci_low"]) < 40 < float(row["ci_high"])


def write(folder: Path):
    done = CliRunner().invoke(app, ["drift", folder.name, "--results", str(folder.parent)])
    assert done.exit_code == 0, done.output
    first = (folder / "drift.csv").read_bytes()
    CliRunner().invoke(app, ["drift", folder.name, "--results", str(folder.parent)])
    assert first == (folder / "drift.csv").read_bytes()
    return (folder / "drift.csv").open()


def test_with_the_stages_swapped_it_says_the_opposite(place, monkeypatch):
    swapped = ("place", "count")
    found, _ = planted(place, monkeypatch, "swapped", numbers_after("llm2"), swapped)
    assert "bare numbers" not in said(found, "llm", "place")
    text = said(found, "llm", "count")
    assert "40.0 % of answers to other questions are bare numbers" in text
    assert "recovered" not in text


def test_sentences_instead_of_words_are_form_only(place, monkeypatch):
    def rule(checkpoint: str, benchmark: str, i: int, gold: str) -> str:
        sentence = benchmark == "color" and checkpoint == "llm1" and i % 10 < 6
        wrong = benchmark == "color" and checkpoint == "llm1" and i % 10 == 9
        return f"The thing in it is {gold}." if sentence else "blue" if wrong else gold

    found, _ = planted(place, monkeypatch, "sentences", rule)
    dip = stage_of(found, "llm", 1)
    # 60 % of one of two benchmarks in form, 10 % in knowledge.
    assert dip.superficial.low < -0.30 < dip.superficial.high
    assert dip.essential.low < -0.05 < dip.essential.high
    assert dip.superficial.delta + dip.essential.delta == pytest.approx(dip.held_out.delta)
    text = said(found, "llm", "count")
    assert "86 % of the loss on `color` is format (−60.0 of −70.0 pp" in text
    assert "number" not in text
    words = dip.shift("words")
    assert words and words.proven and words.change.delta > 0


def test_letters_shifted_to_a_are_a_letter_prior(place, monkeypatch):
    def rule(checkpoint: str, benchmark: str, i: int, gold: str) -> str:
        return "A" if benchmark == "pick" and checkpoint == "llm1" and i % 3 else gold

    found, _ = planted(place, monkeypatch, "letters", rule)
    dip = stage_of(found, "llm", 1)
    shift = dip.shift("says_a")
    assert shift and shift.before == 0.25 and shift.after == pytest.approx(0.75, abs=0.01)
    assert dip.worst == "pick" and dip.superficial.delta == pytest.approx(0)
    assert "75.0 % of answers to choice questions say 'a' (base 25.0 %)" in said(
        found, "llm", "count"
    )


def test_nothing_drifts_nothing_is_told(place, monkeypatch):
    found, folder = planted(place, monkeypatch, "still", lambda c, b, i, gold: gold)
    for line in found.sentences():
        assert line.endswith("within chance")
    assert found.correlation.n == 4 and np.isnan(found.correlation.rho)
    done = CliRunner().invoke(app, ["drift", "still", "--results", str(folder.parent), "--json"])
    facts = json.loads(done.stdout, parse_constant=lambda word: pytest.fail(word))
    assert facts["correlation"]["rho"] is None and facts["correlation"]["n"] == 4
    assert {row["shift"] for row in facts["drift"]} == {0.0}
    assert all(row["before"] > 0 for row in facts["drift"])
    assert [note.split(":")[0] for note in facts["notes"]] == [
        "no probe was run",
        "whether options are still known where answers went wrong was not asked",
    ]


def test_the_leaderboard_has_the_shift_of_number_mass(place, monkeypatch):
    _, folder = planted(place, monkeypatch, "board", numbers_after("llm2"), ("place", "count"))
    done = CliRunner().invoke(app, ["compare", "board", "--results", str(folder.parent)])
    assert done.exit_code == 0, done.output
    rows = {r["strategy"]: r for r in csv.DictReader((folder / "leaderboard.csv").open())}
    assert float(rows["llm"]["number_mass_shift"]) == pytest.approx(0.352)
    assert float(rows["sa_proj"]["number_mass_shift"]) == pytest.approx(0.0352)
    scores = list(csv.DictReader((folder / "scores.csv").open()))
    assert {r["metric"] for r in scores} >= {"accuracy", "bare_number_rate", "number_mass_rate"}


@pytest.mark.parametrize(
    ("sample", "response", "expected"),
    [
        (Sample("1", "?", ("red",)), "", {"misfit_empty": 1, "phrase>empty": 1, "words": 0}),
        (Sample("1", "?", ("3",)), "3", {"misfit_integer": 0, "phrase>integer": 1}),
        (Sample("1", "?", ("3",), answer_type="integer"), "12", {"count_10_up": 1, "count_3": 0}),
        (Sample("1", "?", ("B",), choices=("x", "y"), answer_type="letter"), "(b) y",
         {"says_b": 1, "says_a": 0, "misfit_letter": 0}),
        (Sample("1", "?", ("no",), answer_type="yes_no"), "Yes.", {"says_yes": 1}),
    ],
)  # fmt: skip
def test_traits(sample: Sample, response: str, expected: dict[str, float]):
    found = traits_of(sample, response)
    assert {name: found[name] for name in expected} == expected
    given = [value for name, value in found.items() if ">" in name]
    assert sum(given) == 1
