"""The base install: a CI job imports, compares, gates and ranks without torch or data sets."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

ROOT = Path(__file__).parents[1]
# None of these may be needed, nor come along.
HEAVY = ("torch", "torchvision", "transformers", "datasets", "vllm", "ray", "lm_eval", "sklearn")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with `pip install .` and nothing else; its folder of programs."""
    folder = tmp_path_factory.mktemp("base")
    uv = shutil.which("uv")
    python = folder / "venv" / "bin" / "python"
    if uv:
        steps = [
            [uv, "venv", "-q", "--python", sys.executable, str(folder / "venv")],
            [uv, "pip", "install", "-q", "--python", str(python), str(ROOT)],
        ]
    else:
        steps = [
            [sys.executable, "-m", "venv", str(folder / "venv")],
            [str(python), "-m", "pip", "install", "-q", str(ROOT)],
        ]
    for step in steps:
        subprocess.run(step, check=True, timeout=600)
    return python.parent


def run(base: Path, folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """A program of the base environment, away from the sources of this repository."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "GITHUB_"))}
    command = [str(base / args[0]), *args[1:]]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_import_compare_gate_and_leaderboard_without_heavy_packages(
    base: Path, tmp_path: Path
) -> None:
    probe = "import importlib.util as u, sys; print([m for m in sys.argv[1:] if u.find_spec(m)])"
    found = run(base, tmp_path, "python", "-c", probe, *HEAVY)
    assert found.stdout.strip() == "[]", found.stderr
    rows = [
        pd.DataFrame(
            {
                "strategy": strategy,
                "stage": stage,
                "trained_on": "count" if stage else "",
                "benchmark": benchmark,
                "sample_id": np.arange(500),
                "score": (np.arange(500) < share * 500).astype(int),
            }
        )
        for strategy, stage, shares in (("base", 0, (0.2, 0.8)), ("llm", 1, (0.7, 0.5)))
        for benchmark, share in zip(("count", "docs"), shares, strict=True)
    ]
    pd.concat(rows).to_csv(tmp_path / "scores.csv", index=False)
    for args, code in [
        (["--version"], 0),
        (["import", "scores.csv", "--study", "mine"], 0),
        (["compare", "mine"], 0),
        (["gate", "mine", "--candidate", "llm"], 1),
        (["leaderboard", "mine", "-o", "leaderboard.csv"], 0),
    ]:
        done = run(base, tmp_path, "forgeteval", *args)
        assert done.returncode == code, (args, done.stdout, done.stderr)
    assert (tmp_path / "results" / "mine" / "deltas.csv").is_file()
    assert "llm" in (tmp_path / "leaderboard.csv").read_text()
