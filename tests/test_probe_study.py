"""Probes of a study: stored beside the answers, resumed, checked, and told by `drift`.

On the shipped micro base and shaken copies of it, through transformers.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from test_sweep_micro import shaken
from typer.testing import CliRunner

from harness import integrity, study
from harness.cli import app
from harness.diagnostics import waves
from harness.errors import ManifestError
from harness.executors import Workers
from harness.report.live import Quiet
from harness.scoring.study import read_scores
from harness.storage.store import Store
from harness.study import OpenStudy, Options

TASKS = ("micro_count", "micro_color", "micro_choice")
pytestmark = pytest.mark.slow

PROBE = ("forced", "free-running", "choices")
N = 16


@pytest.fixture(scope="module", autouse=True)
def short_free_answers() -> Iterator[None]:
    """Shaken models never end an answer: 256 tokens of each are minutes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.diagnostics.FREE_TOKENS", 10)
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from harness.micro.study import BASE_FOLDER, test_set

    folder = tmp_path_factory.mktemp("probed")
    (folder / "data").mkdir()
    for task in TASKS:
        pq.write_table(test_set(task.removeprefix("micro_")), folder / "data" / f"{task}.parquet")
    shutil.copytree(BASE_FOLDER, folder / "ckpt/base")
    for k in (1, 2):
        shaken(folder / "ckpt/base", folder / f"ckpt/{k}", k, "layers")
    manifest = {
        "study": "probed",
        "base": "ckpt/base",
        "engine": {"kind": "hf", "threads": 1},
        "suite": {
            "targets": [TASKS[0]],
            "held_out": list(TASKS[1:]),
            "sources": {name: {"path": f"data/{name}.parquet"} for name in TASKS},
            "limit": 24,
        },
        "strategies": {"s": {"stages": [{"path": f"ckpt/{k}", "name": f"n{k}"} for k in (1, 2)]}},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(manifest))
    return folder


def opened(place: Path, results: str, **options: object) -> OpenStudy:
    return study.open_study(place / "study.yaml", Options(place / results, **options))


def owed(place: Path, results: str, **options: object) -> list[tuple[str, str | None]]:
    cells = opened(place, results, **options).plan.cells
    return [(Path(c.checkpoint.path).name, c.kind) for c in cells if c.owed]


@pytest.fixture(scope="module")
def probed(place: Path) -> Path:
    """Answers first, then all diagnostics."""
    assert study.score(opened(place, "whole"), Quiet()).exit_code == 0
    plain = (place / "whole/probed/study.json").read_bytes()
    assert b"diagnostics" not in plain and b"probe_samples" not in plain
    asked = opened(place, "whole", diagnostics=PROBE, probe_samples=N)
    assert {c.kind for c in asked.plan.cells if c.owed} == set(PROBE)
    outcome = study.score(asked, Quiet())
    assert outcome.exit_code == 0 and outcome.n_failed == 0, outcome.failures
    return place / "whole" / "probed"


def test_all_diagnostics_are_stored_and_sound(place: Path, probed: Path):
    assert {finding.kind for finding in integrity.check(probed)} == {"ok"}
    record = json.loads((probed / "study.json").read_text())
    assert record["probe_samples"] == {"forced": N, "free-running": N}
    for stage in record["stages"]:
        found = stage["diagnostics"]
        assert set(found) == set(PROBE)
        assert set(found["forced"]) == set(found["free-running"]) == set(TASKS)
        assert set(found["choices"]) == {"micro_choice"}
    assert owed(place, "whole", diagnostics=PROBE) == []


def test_a_record_that_calls_them_otherwise_is_read(place: Path, probed: Path):
    """Older files have `beside` in the place of `diagnostics`."""
    shutil.copytree(probed.parent, place / "older")
    file = place / "older" / "probed" / "study.json"
    record = json.loads(file.read_text())
    for stage in record["stages"]:
        stage["beside"] = stage.pop("diagnostics")
    file.write_text(json.dumps(record))
    assert {finding.kind for finding in integrity.check(file.parent)} == {"ok"}
    rates = read_scores(file.parent, traits=True).benchmarks["micro_choice"].rates
    assert {"forced_number_mass", "free_number_mass", "choice_accuracy"} <= set(rates)
    assert owed(place, "older", diagnostics=PROBE) == []


def test_a_later_sweep_without_the_word_forgets_nothing(place: Path, probed: Path):
    before = (probed / "study.json").read_bytes()
    assert study.score(opened(place, "whole"), Quiet()).n_answered == 0
    assert (probed / "study.json").read_bytes() == before


def test_all_checkpoints_are_read_on_the_bases_answers(probed: Path):
    store, record = Store(probed), json.loads((probed / "study.json").read_text())
    for task in TASKS:
        cells = [stage["diagnostics"]["forced"][task] for stage in record["stages"]]
        base, *others = [store.predictions(task, cell) for cell in cells]
        # Whole groups are drawn: the last one may pass the number.
        assert N <= len(base) <= N + 2
        answers = store.predictions(task, record["stages"][0]["cells"][task])
        for name, first in base.items():
            assert first.reading is not None and first.text == answers[name].text
            for other in others:
                again = other[name].reading
                assert again is not None and again.tokens == first.reading.tokens
                assert min(again.kl_forward) >= 0 and not again.top_ids
        assert max(other[n].reading.kl_forward[0] for other in others for n in base) > 0.1


def test_an_interrupted_probe_goes_on_without_the_base_again(place: Path, probed: Path):
    shutil.copytree(probed.parent, place / "torn")
    study_dir = place / "torn" / "probed"
    record = json.loads((study_dir / "study.json").read_text())
    lost = record["stages"][2]["diagnostics"]["forced"]["micro_color"]
    file = study_dir / "cells" / "micro_color" / f"{lost}.parquet"
    whole = file.read_bytes()
    file.unlink()
    assert {f.kind for f in integrity.check(study_dir)} == {"ok", "missing"}
    assert owed(place, "torn") == []  # nothing is asked for unless `--probe` is said
    assert owed(place, "torn", diagnostics=("forced",)) == [("2", "forced")]
    outcome = study.score(opened(place, "torn", diagnostics=("forced",)), Quiet())
    assert outcome.exit_code == 0 and N <= outcome.n_answered <= N + 2
    again = pq.read_table(file)["reading"].to_pylist()
    file.write_bytes(whole)
    for one, other in zip(again, pq.read_table(file)["reading"].to_pylist(), strict=True):
        assert one["kl_forward"] == pytest.approx(other["kl_forward"], abs=1e-4)


def test_a_probe_whose_base_is_lost_is_no_score(place: Path, probed: Path, monkeypatch):
    shutil.copytree(probed.parent, place / "headless")
    record = json.loads((probed / "study.json").read_text())
    for stage, task in ((0, "micro_color"), (1, "micro_color")):
        cell = record["stages"][stage]["diagnostics"]["forced"][task]
        (place / "headless/probed/cells" / task / f"{cell}.parquet").unlink()
    asked = opened(place, "headless", diagnostics=("forced",), only=("s@1",))
    cells = [c for c in asked.plan.cells if not (c.kind == "forced" and not c.follows)]
    asked = study.OpenStudy(asked.manifest, asked.folder, asked.store,
                            type(asked.plan)(asked.plan.benchmarks, asked.plan.stages, cells))  # fmt: skip
    outcome = study.score(asked, Quiet(), record=False)
    assert [f.why for f in outcome.failures] == [
        "micro_color: the base's probe is not there to compare with; score it first"
    ]


def test_what_follows_the_bases_probe_waits_for_it(place: Path, probed: Path):
    fresh = opened(place, "fresh", diagnostics=PROBE)
    first, second = waves(fresh.plan, fresh.store)
    now, then = ([c for c in part.cells if c.owed] for part in (first, second))
    assert [c.id for c in fresh.plan.cells if c.owed and c not in now] == [c.id for c in then]
    assert {(c.kind, bool(c.follows)) for c in then} == {("forced", True)}
    assert {c.follows for c in then} <= {c.id for c in now}
    more = opened(place, "whole", diagnostics=("forced",), probe_samples=N, only=("s@1",))
    assert waves(more.plan, more.store) == [more.plan]


def test_several_workers_read_what_one_engine_reads(place: Path, probed: Path):
    asked = opened(place, "crew", diagnostics=("forced", "choices"), probe_samples=N, only=("s@1",))
    outcome = study.score(asked, Quiet(), workers=Workers("local", 2, None))
    assert outcome.exit_code == 0 and not outcome.n_failed, outcome.failures
    whole = Store(probed)
    cells = [cell for cell in asked.plan.cells if cell.owed and cell.kind == "forced"]
    assert len(cells) == 6
    for cell in cells:
        ours = asked.store.predictions(cell.task, cell.id)
        for name, other in whole.predictions(cell.task, cell.id).items():
            assert ours[name].reading.tokens == other.reading.tokens
            assert ours[name].reading.kl_forward == pytest.approx(
                other.reading.kl_forward, abs=1e-4
            )


def test_another_number_of_samples_is_another_cell(place: Path, probed: Path):
    assert len(owed(place, "whole", diagnostics=("forced",), probe_samples=N + 4)) == 9


def test_a_damaged_reading_is_refused(place: Path, probed: Path):
    from harness.errors import ResultsError

    shutil.copytree(probed.parent, place / "damaged")
    store = Store(place / "damaged" / "probed")
    record = json.loads((probed / "study.json").read_text())
    cell = record["stages"][1]["diagnostics"]["forced"]["micro_color"]
    signature = store.read_cell("micro_color", cell)[1]["signature"]
    journal = store.journal("micro_color", signature)
    for name, prediction in journal.done.items():
        object.__setattr__(prediction.reading, "top1", (1,) * 40)
        journal.done[name] = prediction
    journal.seal(list(journal.done))
    with pytest.raises(ResultsError, match="not written by forgeteval"):
        read_scores(store.folder, traits=True)
    read_scores(store.folder)  # the scores themselves do not need it


def test_drift_tells_what_was_read(place: Path, probed: Path):
    done = CliRunner().invoke(app, ["drift", str(probed)])
    assert done.exit_code == 0, done.output
    assert "on the base's own answers: " in done.output and " nats" in done.output
    assert "no probe was run" not in done.output
    assert "KL to the base: " in done.output  # the correlation, of too few points here
    rows = list(csv.DictReader((probed / "drift.csv").open()))
    found = {(r["stage"], r["benchmark"], r["measure"]): r for r in rows}
    scores = read_scores(probed, traits=True)
    for measure, unit in (("kl_forward", "nats"), ("kl_reverse", "nats"),
                          ("top1_agreement", "percent"), ("forced_number_mass", "percent"),
                          ("kl_forward@1", "nats"), ("free_number_mass", "percent"),
                          ("free_number_mass_max", "percent"),
                          ("free_number_peak", "percent")):  # fmt: skip
        for name in ("micro_count", "micro_color", "held_out"):
            row = found["1", name, measure]
            assert row["unit"] == unit
            assert float(row["ci_low"]) <= float(row["shift"]) <= float(row["ci_high"])
            if name == "held_out":
                continue
            values = scores.benchmarks[name].rates[measure][:, :2]
            assert N <= np.isfinite(values).all(axis=1).sum() <= N + 2
            shift = np.nanmean(values[:, 1] - values[:, 0]) * (100 if unit == "percent" else 1)
            assert float(row["shift"]) == pytest.approx(shift, abs=1e-4)
    assert float(found["1", "micro_color", "kl_forward"]["before"]) == 0
    assert float(found["1", "micro_color", "top1_agreement"]["before"]) == 100
    gap = found["1", "micro_choice", "choice_gap"]
    parts = [float(found["1", "micro_choice", f"{w}_accuracy"]["shift"]) for w in
             ("generated", "choice")]  # fmt: skip
    assert float(gap["shift"]) == pytest.approx(parts[0] - parts[1], abs=1e-3)


def test_options_are_not_compared_twice(place: Path):
    manifest = yaml.safe_load((place / "study.yaml").read_text())
    manifest["suite"]["scoring"] = "loglikelihood"
    (place / "likely.yaml").write_text(yaml.safe_dump(manifest))
    with pytest.raises(ManifestError, match=r"--choices: suite\.scoring is loglikelihood"):
        study.open_study(place / "likely.yaml", Options(place / "x", diagnostics=("choices",)))


def test_the_command_takes_the_form_or_leaves_it_out(place: Path, probed: Path):
    def plan(*words: str) -> dict[str, object]:
        arguments = ["score", *words, "--results", str(place / "fresh"), "--dry-run", "--json"]
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    file = str(place / "study.yaml")
    assert plan(file)["cells_owed"] == 9
    assert plan("--probe", file)["cells_owed"] == 18
    assert plan("--probe", "free-running", file, "--choices")["cells_owed"] == 21
    assert plan("--probe", "free-running", "--probe", file)["cells_owed"] == 27
    lonely = CliRunner().invoke(app, ["score", "--probe-samples", "5", file])
    assert str(lonely.exception).startswith("--probe-samples: says how many samples a probe reads")
    wrong = CliRunner().invoke(app, ["score", "--probe=freerunning", file])
    assert wrong.exit_code != 0
    assert str(wrong.exception) == "--probe: got 'freerunning'; did you mean 'free-running'?"


def test_planning_a_probe_imports_no_torch(place: Path, probed: Path):
    import subprocess
    import sys

    code = (
        "import sys; from pathlib import Path; from harness import study;"
        f"s = study.open_study(Path({str(place / 'study.yaml')!r}), study.Options("
        f"Path({str(place / 'whole')!r}), diagnostics=('forced', 'choices')));"
        "assert not any(c.owed for c in s.plan.cells);"
        "assert not {'torch', 'transformers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
