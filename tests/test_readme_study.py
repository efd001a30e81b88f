"""README, "Your own study": its files and commands, run as they are printed, from tune to report."""

from __future__ import annotations

import csv
import json
import re
import shlex
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from tiny_models import make_checkpoint, noise_image
from typer.testing import CliRunner

from harness.cli import app

ROOT = Path(__file__).parents[1]
DATA = ROOT / "tests" / "fixtures" / "data"
SECTION = (ROOT / "README.md").read_text(encoding="utf-8").split("## Your own study")[1]
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", SECTION.split("\n## ")[0], re.S | re.M)
SUITE, STRATEGIES = (body for kind, body in BLOCKS if kind == "yaml")
COMMANDS = [
    line.partition("  #")[0].strip()
    for kind, body in BLOCKS
    if not kind
    for line in body.replace("\\\n", " ").splitlines()
]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """What the section takes for granted: a model, training rows, and the suite's data."""
    pytest.importorskip("torch")
    make_checkpoint(tmp_path / "models" / "qwen", "qwen2_5_vl")
    (tmp_path / "suite.yaml").write_text(SUITE, encoding="utf-8")
    suite = yaml.safe_load(SUITE)["suite"]
    for name, source in suite["sources"].items():
        file = tmp_path / source["path"]
        file.parent.mkdir(exist_ok=True)
        shutil.copy(DATA / f"{name}.parquet", file)
    (tmp_path / "train").mkdir()
    for number, name in enumerate(suite["targets"]):
        rows = [
            {
                "image": {"bytes": noise_image(100 * number + i, 40, 56).data, "path": f"{i}.png"},
                "question": f"{name}, picture {i}?",
                "answer": str(i % 3),
            }
            for i in range(20)
        ]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train" / f"{name}.parquet")
    return tmp_path


@pytest.mark.slow
def test_the_commands_of_the_readme_make_a_study(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    said: dict[str, str] = {}
    for command in COMMANDS:
        program, *arguments = shlex.split(command)
        assert program == "forgeteval"
        result = CliRunner().invoke(app, arguments, env={"COLUMNS": "120"}, catch_exceptions=False)
        assert result.exit_code == 0, f"{command}\n{result.output}"
        said.setdefault(arguments[0], "")
        said[arguments[0]] += result.output
    assert said.keys() == {"tune", "score", "compare", "drift", "audit", "report"}
    strategies = {"sa_proj", "mlp_gate_up", "llm"}
    for name in strategies:
        assert name in said["compare"]
        assert f"{name} run 0 stage 2: timeclock: verified (declared {name})" in said["audit"]
    # What was trained, verified and judged stands in one row per strategy.
    study = place / "results" / "ft"
    rows = list(csv.DictReader((study / "leaderboard.csv").open(encoding="utf-8")))
    assert {row["strategy"]: row["components"] for row in rows} == {
        name: f"{name}, verified" for name in strategies
    }
    shares = {row["strategy"]: float(row["trainable_share"]) for row in rows}
    assert 0 < shares["sa_proj"] < shares["mlp_gate_up"] < shares["llm"] < 1
    assert all(float(row["train_seconds"]) > 0 for row in rows)
    record = json.loads((study / "study.json").read_text())
    assert len(record["stages"]) == 1 + 3 * 2
    assert list(place.rglob("*.html"))
    # A folder of the stages, and one of them alone, were scored without a manifest of their own.
    assert {f.parent.name for f in place.rglob("study.json")} >= {"ft", "sa_proj"}


def test_the_manifest_of_the_readme_is_one(place: Path) -> None:
    """The strategies shown complete the suite shown; so does every path of them."""
    from harness.manifest import check_manifest

    for folder in re.findall(r"path: (ckpt/[\w/]+)", STRATEGIES):
        shutil.copytree(place / "models" / "qwen", place / folder)
    written = {**yaml.safe_load(SUITE), **yaml.safe_load(STRATEGIES)}
    manifest = check_manifest(written, "README.md", place)
    assert [stage.trained_on for stage, _ in manifest.stages()] == ["pathvqa", "timeclock"]
