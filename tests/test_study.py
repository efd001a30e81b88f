"""A study from manifest to stored cells: identity by content, resume, and what cannot be read."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from replay import ReplayEngine, write_checkpoint
from typer.testing import CliRunner

from harness import engines, study
from harness.cli import app
from harness.errors import ManifestError, ResultsError, UserError
from harness.report.live import Quiet
from harness.scoring.study import read_scores
from harness.study import Options
from harness.study_folders import study_folder

MANIFEST = """
study: tiny
base: ckpt/base
suite:
  targets: [colors]
  held_out: [words]
  tasks:
    colors: {path: data/colors.parquet, scorer: exact}
    words: {path: data/words.parquet, scorer: exact, columns: {group: picture}}
strategies:
  a:
    component: llm
    stages: [{trained_on: colors, path: ckpt/a1}, {path: ckpt/a2, name: later}]
  b:
    stages: [{trained_on: colors, path: ckpt/b1}]
"""


def picture(shade: int) -> dict[str, object]:
    data = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(data, "PNG")
    return {"bytes": data.getvalue(), "path": None}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for number, name in enumerate(("base", "a1", "a2", "b1")):
        write_checkpoint(tmp_path / "ckpt" / name, number)
    (tmp_path / "data").mkdir()
    for name in ("colors", "words"):
        rows = [
            {"image": picture(i // 2), "question": f"{name} {i}?", "answer": "red",
             "id": str(i), "picture": str(i // 2)}
            for i in range(20)
        ]  # fmt: skip
        pd.DataFrame(rows).to_parquet(tmp_path / "data" / f"{name}.parquet")
    (tmp_path / "study.yaml").write_text(MANIFEST)
    return tmp_path


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> ReplayEngine:
    made = ReplayEngine(lambda checkpoint, request: "red" if request.sample_id != "3" else "3")
    monkeypatch.setattr(engines, "create", lambda kind, options: made)
    return made


def score(place: Path, **options: object):
    results = place / "results"
    opened = study.open_study(place / "study.yaml", Options(results=results, **options))
    return study.score(opened, Quiet()), opened


def test_each_checkpoint_is_loaded_once_and_scored_on_everything(place: Path, engine):
    outcome, _ = score(place)
    assert (outcome.n_sealed, outcome.exit_code, len(engine.loaded)) == (8, 0, 4)
    scores = read_scores(place / "results" / "tiny")
    assert [s.name for s in scores.stages] == ["base", "colors", "later", "colors"]
    words = scores.benchmarks["words"]
    assert words.values["strict"].shape == (20, 4) and words.values["strict"].mean() == 0.95
    assert words.rates["bare_number"].mean() == 0.05
    assert len(set(words.groups.tolist())) == 10 and words.role == "held_out"
    assert len(set(words.settings)) == 1 and len(set(words.signatures)) == 4
    assert scores.texts is not None
    assert scores.texts.response(scores.stages[0].key, "words", "3") == "3"
    assert scores.texts.question("words", "3") == "words 3?"


def test_a_second_run_owes_nothing_and_changes_nothing(place: Path, engine):
    score(place)
    record = (place / "results/tiny/study.json").read_bytes()
    outcome, _ = score(place)
    assert outcome.n_answered == 0 and len(engine.loaded) == 4
    assert (place / "results/tiny/study.json").read_bytes() == record


def test_lost_questions_are_written_again(place: Path, engine):
    _, opened = score(place)
    (samples,) = (opened.store.folder / "samples").glob("words-*.parquet")
    before = samples.read_bytes()
    samples.unlink()
    with pytest.raises(ResultsError, match="is missing; run `forgeteval score` again"):
        read_scores(opened.store.folder)
    assert score(place)[0].n_answered == 0
    assert samples.read_bytes() == before


def test_failed_answers_are_told_and_asked_again(place: Path, monkeypatch: pytest.MonkeyPatch):
    broken = {"3"}
    made = ReplayEngine(lambda c, r: None if r.sample_id in broken else "red")
    monkeypatch.setattr(engines, "create", lambda kind, options: made)
    outcome, _ = score(place)
    assert (outcome.n_failed, outcome.exit_code) == (8, 0)
    first = outcome.failed[0]
    assert (first.where, first.n_failed, first.n) == ("base, colors", 1, 20) and first.reason
    assert score(place)[0].n_answered == 0
    broken.add("4")
    assert score(place, retry_failed=True)[0].n_failed == 8  # what was answered stays
    broken.clear()
    outcome, opened = score(place, retry_failed=True)
    assert (outcome.n_answered, outcome.n_failed, outcome.failed) == (8, 0, [])
    assert read_scores(opened.store.folder).benchmarks["words"].values["strict"].mean() == 1
    assert score(place, retry_failed=True)[0].n_answered == 0


def test_the_command_says_what_failed_and_a_dry_run_what_cannot_be_scored(
    place: Path, monkeypatch: pytest.MonkeyPatch
):
    made = ReplayEngine(lambda c, r: None if r.sample_id == "3" else "red")
    monkeypatch.setattr(engines, "create", lambda kind, options: made)
    words = ["score", str(place / "study.yaml"), "--results", str(place / "results")]
    done = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
    assert done.exit_code == 0
    assert "base, colors: 1 of 20 answers failed: no picture" in done.output
    assert "and 3 more cells with failed answers" in done.output
    assert "`--retry-failed` asks them again." in done.output
    assert CliRunner().invoke(app, [*words, "--dry-run"]).exit_code == 0
    (place / "data" / "words.parquet").write_bytes(b"torn")
    assert CliRunner().invoke(app, [*words, "--dry-run"]).exit_code == 6


def test_a_cell_of_which_much_failed_is_no_success(place: Path, monkeypatch: pytest.MonkeyPatch):
    made = ReplayEngine(lambda c, r: None if r.sample_id in ("3", "4") else "red")
    monkeypatch.setattr(engines, "create", lambda kind, options: made)
    assert score(place)[0].exit_code == 6


def test_an_overwritten_checkpoint_is_scored_again_and_the_old_cells_stay(place: Path, engine):
    score(place)
    cells = set((place / "results/tiny/cells").rglob("*.parquet"))
    write_checkpoint(place / "ckpt" / "a2", 77)
    outcome, _ = score(place)
    assert outcome.n_sealed == 2
    assert cells < set((place / "results/tiny/cells").rglob("*.parquet"))


def test_a_renamed_checkpoint_is_not_scored_again(place: Path, engine):
    score(place)
    (place / "ckpt" / "a2").rename(place / "ckpt" / "other")
    text = (place / "study.yaml").read_text().replace("ckpt/a2", "ckpt/other")
    (place / "study.yaml").write_text(text)
    outcome, _ = score(place)
    assert outcome.n_answered == 0


def test_equal_checkpoints_are_scored_once(place: Path, engine):
    write_checkpoint(place / "ckpt" / "b1", 1)
    outcome, _ = score(place)
    assert outcome.n_sealed == 6 and len(engine.loaded) == 3
    scores = read_scores(place / "results" / "tiny")
    assert scores.benchmarks["words"].values["strict"].shape == (20, 4)


def test_changed_data_makes_new_cells(place: Path, engine):
    score(place)
    frame = pd.read_parquet(place / "data/words.parquet")
    frame.loc[0, "question"] = "something else?"
    frame.to_parquet(place / "data/words.parquet")
    outcome, _ = score(place)
    assert outcome.n_sealed == 4


def test_only_scores_the_stages_asked_for(place: Path, engine):
    outcome, _ = score(place, only=("a@later",))
    assert len(engine.loaded) == 2 and outcome.n_sealed == 4
    outcome, _ = score(place, only=("a",))
    assert len(engine.loaded) == 3
    for wrong in ("a@", "a@7"):
        with pytest.raises(ManifestError, match=r"its stages are 1 \(colors\), 2 \(later\)"):
            score(place, only=(wrong,))
    for more in ({}, {"base": place / "ckpt" / "base"}, {"suite": place / "study.yaml"}):
        with pytest.raises(ManifestError, match="nowhere: no such manifest, and no such folder"):
            study.open_study(place / "nowhere", Options(results=place / "results", **more))
    with pytest.raises(ManifestError, match="--suite is for a folder"):
        score(place, suite=place / "other.yaml")
    with pytest.raises(ManifestError, match="'c@2' matches no stage; strategies are a, b"):
        score(place, only=("c@2",))


def test_a_torn_checkpoint_is_reported_and_the_rest_is_scored(place: Path, engine):
    file = place / "ckpt" / "b1" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    outcome, _ = score(place)
    assert outcome.n_sealed == 6 and outcome.exit_code == 6
    assert "tensor w ends at byte" in outcome.failures[0].why
    scores = read_scores(place / "results" / "tiny")
    assert np.isnan(scores.benchmarks["words"].values["strict"][:, 3]).all()


def test_a_task_without_data_is_reported_and_the_rest_is_scored(place: Path, engine):
    (place / "data" / "words.parquet").unlink()
    outcome, _ = score(place)
    assert outcome.n_sealed == 4 and outcome.exit_code == 6
    assert outcome.failures[0].what == "words"


def test_a_stage_without_processor_uses_the_bases(place: Path, engine):
    for name in ("tokenizer.json", "processor_config.json"):
        (place / "ckpt" / "a1" / name).unlink()
    _, opened = score(place)
    paths = [checkpoint.processor_path for _, checkpoint in opened.plan.stages if checkpoint]
    assert paths[1] == paths[0] != paths[2]


def test_the_base_scored_again_is_the_noise_floor(place: Path, engine):
    score(place)
    assert read_scores(place / "results/tiny").notes == ()
    engine.answer = lambda checkpoint, request: "red" if request.sample_id != "4" else "blue"
    outcome, _ = score(place, repeat_base=True)
    assert outcome.n_sealed == 2 and engine.loaded[-1] == engine.loaded[0]
    score(place)  # the record keeps what is there
    (note,) = read_scores(place / "results/tiny").notes
    assert note == (
        "noise floor: scored twice, the base gave another answer to 4 of 40 requests (10.00 %)"
    )
    outcome, _ = score(place, repeat_base=True)
    assert outcome.n_answered == 0


def test_two_engines_are_compared_answer_by_answer(place: Path, engine, monkeypatch):
    from harness.agreement import disagreements

    _, first = score(place)
    other = ReplayEngine(lambda checkpoint, request: "red")
    monkeypatch.setattr(engines, "create", lambda kind, options: other)
    record = (place / "results/tiny/study.json").read_bytes()
    options = Options(results=place / "results", engine="vllm")
    second = study.open_study(place / "study.yaml", options)
    study.score(second, Quiet(), record=False)
    assert (place / "results/tiny/study.json").read_bytes() == record
    found = disagreements(first, second)
    assert (found.n, found.n_different) == (160, 8)
    assert found.examples[0] == ("base", "colors", "3", "3", "red")


def test_an_estimate_rests_on_what_was_measured_here(place: Path, engine):
    opened = study.open_study(place / "study.yaml", Options(results=place / "results"))
    assert study.estimate(opened).seconds is None
    score(place, only=("a@1",))
    opened = study.open_study(place / "study.yaml", Options(results=place / "results"))
    expected = study.estimate(opened)
    assert expected.seconds is not None and expected.basis == "as measured here with hf"
    (place / "results/.cache/rates.json").write_text('{"hf": 3}')
    assert study.estimate(opened).seconds is None
    score(place)
    opened = study.open_study(place / "study.yaml", Options(results=place / "results"))
    assert study.estimate(opened).seconds == 0


def test_limit_draws_whole_pictures_and_is_part_of_the_identity(place: Path, engine):
    score(place)
    outcome, opened = score(place, limit=6)
    assert outcome.n_sealed == 8
    assert {b.n for b in opened.plan.benchmarks.values()} == {6}


def test_one_checkpoint_folder_is_a_study_of_its_own(place: Path, engine):
    options = Options(results=place / "results", suite=place / "study.yaml")
    opened = study.open_study(place / "ckpt" / "a1", options)
    outcome = study.score(opened, Quiet())
    assert outcome.n_sealed == 2 and opened.manifest.study == "ckpt-a1"
    with pytest.raises(UserError, match="no checkpoints below it"):
        study.open_study(place / "data", options)


def test_studies_are_found_by_manifest_folder_or_name(place: Path, engine):
    with pytest.raises(ResultsError, match="not scored yet; run `forgeteval score"):
        study_folder(str(place / "study.yaml"), place / "results")
    score(place)
    results = place / "results"
    for target in (str(place / "study.yaml"), "tiny", str(results / "tiny")):
        assert study_folder(target, results) == results / "tiny"
    with pytest.raises(ResultsError, match="no study 'tinny' here; did you mean 'tiny'"):
        study_folder("tinny", results)
    with pytest.raises(ResultsError, match="expected a plain name"):
        study_folder("../tiny", results)


def test_results_are_read_where_no_model_or_data_are(place: Path, engine):
    score(place)
    shutil.rmtree(place / "ckpt")
    shutil.rmtree(place / "data")
    assert len(read_scores(study_folder(str(place / "study.yaml"), place / "results")).stages) == 4


def test_a_foreign_study_json_is_refused(place: Path):
    folder = place / "results" / "x"
    folder.mkdir(parents=True)
    for text in ("", "[]", "{}", '{"schema": 9}'):
        (folder / "study.json").write_text(text)
        with pytest.raises(UserError, match=r"study\.json"):
            read_scores(folder)


def test_nothing_to_do_loads_nothing_heavy(place: Path, engine):
    score(place)
    code = (
        "import sys\nfrom harness.cli import app\n"
        f"app(['score', {str(place / 'study.yaml')!r}, '--results', {str(place / 'results')!r}], standalone_mode=False)\n"
        "heavy = 'torch transformers datasets vllm scipy numpy pandas pyarrow PIL lm_eval'.split()\n"
        "bad = set(heavy) & set(sys.modules)\n"
        "assert not bad, bad\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Nothing to do: all 8 cells of tiny are scored." in done.stdout
