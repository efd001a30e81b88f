"""A folder of stages given to `forgeteval score`: a study where the names tell, else a question."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from replay import ReplayEngine
from safetensors.numpy import save_file
from typer.testing import CliRunner

from harness import engines, study
from harness.analysis import JudgeOptions, judge
from harness.cli import app
from harness.errors import UserError
from harness.manifest import base_stage
from harness.plan import Plan
from harness.report.content import Wanted, gather
from harness.report.live import Quiet
from harness.scoring.study import read_scores
from harness.standings import rank_studies
from harness.study import Options, open_study

SUITE = """
study: suite
base: {hub: some/model}
suite:
  targets: [birds, slides]
  tasks:
    birds: {path: birds.parquet, scorer: exact}
    slides: {path: slides.parquet, scorer: exact}
"""


def checkpoint(folder: Path, value: float, *, processor: bool = False, **config: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "tiny", **config}))
    save_file({"w": np.full(4, value, np.float32)}, folder / "model.safetensors")
    if processor:
        (folder / "tokenizer.json").write_text("{}")
        (folder / "processor_config.json").write_text("{}")
    return folder


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The reference scripts' layout below `ckpt/`, stages without processors; a base beside it."""
    monkeypatch.chdir(tmp_path)
    checkpoint(tmp_path / "models/base", 0, processor=True)
    for number, name in enumerate(("birds", "birds_then_slides"), start=1):
        for step in (36, 360):
            folder = tmp_path / f"ckpt/llava_sa-trained_on_{name}/checkpoint-{step}"
            checkpoint(folder, number + step, _name_or_path="lmms-lab/llava")
            (folder / "optimizer.pt").write_bytes(b"not ours")
    for task in ("birds", "slides"):
        shot = io.BytesIO()
        Image.new("RGB", (8, 8)).save(shot, "PNG")
        image = {"bytes": shot.getvalue(), "path": None}
        rows = [
            {"id": str(i), "image": image, "question": f"{i}?", "answer": "a"} for i in range(6)
        ]
        pd.DataFrame(rows).to_parquet(tmp_path / f"{task}.parquet")
    (tmp_path / "suite.yaml").write_text(SUITE)
    made = ReplayEngine(lambda checkpoint, request: "a")
    monkeypatch.setattr(engines, "create", lambda kind, options: made)
    return tmp_path


def test_the_reference_layout_is_scored_by_one_command(place: Path):
    arguments = ["score", "ckpt", "--base", "models/base", "--suite", "suite.yaml", "--quiet"]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    record = json.loads((place / "results/ckpt/study.json").read_text())
    assert [(s["strategy"], s["stage"], s["trained_on"]) for s in record["stages"]] == [
        ("base", 0, None),
        ("llava_sa", 1, "birds"),
        ("llava_sa", 2, "slides"),
    ]
    assert len({s["checkpoint"] for s in record["stages"]}) == 3
    assert record["costs"] == {}
    assert all(set(s["cells"]) == {"birds", "slides"} for s in record["stages"])


def test_a_missing_base_is_a_question(place: Path):
    with pytest.raises(UserError) as error:
        open_study(Path("ckpt"), Options(suite=Path("suite.yaml")))
    assert "base: which checkpoint was tuned? give it with --base FOLDER" in str(error.value)
    assert "the checkpoints name lmms-lab/llava as their start" in str(error.value)


def test_a_base_that_is_not_there_is_said(place: Path):
    with pytest.raises(UserError, match="base: no checkpoint at"):
        open_study(Path("ckpt"), Options(suite=Path("suite.yaml"), base=Path("models/bse")))


def test_a_pattern_names_stages_of_any_layout(place: Path):
    for strategy in ("sa", "mlp"):
        for stage, skill in ((1, "birds"), (2, "slides")):
            checkpoint(place / f"own/{strategy}/{stage}-{skill}-lr5e-6/checkpoint-9", stage)
    opened = open_study(
        Path("own"),
        Options(
            suite=Path("suite.yaml"),
            base=Path("models/base"),
            pattern="{strategy}/{stage}-{trained_on}-lr*",
        ),
    )
    found = [(s.key.strategy, s.key.stage, s.trained_on) for s, _ in opened.plan.stages[1:]]
    assert found == [
        ("mlp", 1, "birds"), ("mlp", 2, "slides"), ("sa", 1, "birds"), ("sa", 2, "slides"),
    ]  # fmt: skip
    # Same weights under two names are one checkpoint: base, stage 1, stage 2 on two tasks each.
    assert len(opened.plan.cells) == 6


def test_each_checkpoint_of_a_training_may_be_a_stage(place: Path):
    for step in (50, 100):
        checkpoint(place / f"curve/full/slides/checkpoint-{step}", step)
    arguments = ["score", "curve", "--base=models/base", "--suite=suite.yaml", "--quiet"]
    pattern = "--pattern={strategy}/{trained_on}/checkpoint-{stage}"
    result = CliRunner().invoke(app, [*arguments, pattern], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    record = json.loads((place / "results/curve/study.json").read_text())
    stages = [(s["strategy"], s["stage"], s["trained_on"]) for s in record["stages"]]
    assert stages == [("base", 0, None), ("full", 1, "slides"), ("full", 2, "slides")]
    result = CliRunner().invoke(app, ["compare", "curve"], catch_exceptions=False)
    assert result.exit_code == 0, result.output


def test_a_stage_inherits_the_bases_processor(place: Path):
    opened = open_study(Path("ckpt"), Options(suite=Path("suite.yaml"), base=Path("models/base")))
    assert {c.processor_path for _, c in opened.plan.stages if c} == {str(place / "models/base")}


def test_without_a_suite_the_reference_studys_is_meant(
    place: Path, monkeypatch: pytest.MonkeyPatch
):
    # Planning would fetch the data sets.
    monkeypatch.setattr(study, "make_plan", lambda *_, **__: Plan({}, [(base_stage(), None)], ()))
    for number, name in enumerate(("cub200", "cub200_then_pathvqa"), start=1):
        checkpoint(place / f"theirs/llava_sa-trained_on_{name}/checkpoint-36", number)
    opened = open_study(Path("theirs"), Options(base=Path("models/base")))
    suite = opened.manifest.suite
    assert suite.targets == ["cub200", "pixmo_count", "pathvqa", "textvqa", "timeclock"]
    assert len(suite.held_out) == 8
    for name in ("mmstar", "vqav3"):
        checkpoint(place / f"other_{name}/sa-trained_on_{name}", 1)
    opened = open_study(Path("other_mmstar"), Options(base=Path("models/base")))
    assert opened.manifest.suite.targets[-1] == "mmstar"
    assert "mmstar" not in opened.manifest.suite.held_out
    with pytest.raises(UserError, match="unknown task 'vqav3'"):
        open_study(Path("other_vqav3"), Options(base=Path("models/base")))


def test_a_folder_with_a_manifest_is_that_study(place: Path):
    text = SUITE.replace("{hub: some/model}", str(place / "models/base"))
    (place / "ckpt/checkpoints.yaml").write_text(text)
    for name in ("birds.parquet", "slides.parquet"):
        (place / name).rename(place / "ckpt" / name)
    assert open_study(Path("ckpt"), Options()).manifest.study == "suite"


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("models/base", Options(base=Path("x")), "is one checkpoint; --base and --pattern"),
        ("suite.yaml", Options(base=Path("x")), "--base and --pattern are for a folder of stages"),
        ("ckpt/llava_sa-trained_on_birds", Options(base=Path("models/base")),
         "is one training's output; give checkpoint-360 in it, or the folder above"),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_said(place: Path, target, options, message):
    with pytest.raises(UserError) as error:
        open_study(Path(target), options)
    assert message in str(error.value)


def test_what_training_cost_and_what_the_audit_found_reach_the_leaderboard(place: Path):
    for number, folder in enumerate(sorted((place / "ckpt").glob("*/checkpoint-360")), start=1):
        record = dict.fromkeys(("samples", "samples_skipped", "steps", "tokens"), 0)
        record |= {"answer_tokens": 0, "loss": 0.5, "trainable_parameters": 4, "device": "cpu"}
        record |= {"start_fingerprint": "", "data_fingerprint": "", "library": "", "recipe": {}}
        record |= {"trained_on": None, "component": "full", "trainable_share": 0.5 * number}
        record |= {"train_seconds": 10.0 * number, "peak_memory_gb": 2.0 / number}
        record |= {"energy_kwh": 0.25 * number, "co2_kg": 0.1 if number == 1 else None}
        (folder / "training.json").write_text(json.dumps(record))
    options = Options(suite=Path("suite.yaml"), base=Path("models/base"))
    opened = open_study(Path("ckpt"), options)
    study.score(opened, Quiet())
    kept = json.loads((place / "results/ckpt/study.json").read_text())
    # Seconds add up over the stages; share and memory are the largest.
    cost = {"trainable_share": 1.0, "train_seconds": 30.0, "peak_memory_gb": 2.0}
    # CO2 is unknown where one stage does not know it.
    assert kept["costs"] == {"llava_sa": cost | {"energy_kwh": 0.75}}
    wanted = Wanted("ckpt", place / "results/ckpt", samples=False)
    table = gather(wanted, JudgeOptions()).costs
    assert dict(zip(table.columns, table.rows[0], strict=True)) == {
        "Strategy": "llava_sa", "Parameters trained": "100.0 %", "Seconds": "30",
        "Peak memory, GB": "2.0", "Energy, kWh": "0.75",
        "Learning, pp": "0.0", "Held-out final, pp": "NA",
    }  # fmt: skip
    for form in ("md", "html"):
        out = place / f"report.{form}"
        arguments = ["report", "ckpt", "--format", form, "--out", str(out)]
        CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert all(word in out.read_text() for word in ("What training cost", "Energy, kWh"))

    def row() -> dict[str, object]:
        scores = read_scores(place / "results/ckpt")
        whole = judge(scores, JudgeOptions()).leaderboard.iloc[0].to_dict()
        joined = rank_studies([scores], JudgeOptions()).frame.iloc[0].to_dict()
        assert {name: joined[name] for name in cost} == {name: whole[name] for name in cost}
        assert joined["components"] == whole["components"]
        return whole

    assert {name: row()[name] for name in cost} == cost
    assert row()["components"] == "full"
    stages = [
        {"strategy": "llava_sa", "run": "0", "stage": k, "declared": "full", "status": "verified"}
        for k in (1, 2)
    ]
    file = place / "results/ckpt/audit.json"
    file.write_text(json.dumps({"stages": stages}))
    assert row()["components"] == "full, verified"
    stages[1]["status"] = "mismatch"
    file.write_text(json.dumps({"stages": stages}))
    assert row()["components"] == "full, mismatch"
    # An audit of one stage, or under another declaration, says nothing of this study.
    odd = [{**stage, "status": ["verified"]} for stage in stages]
    for other in (stages[:1], [{**stage, "declared": "llm"} for stage in stages], odd, "no"):
        file.write_text(json.dumps({"stages": other}))
        assert row()["components"] == "full"
    file.write_text("[" * 100_000)
    assert row()["components"] == "full"
