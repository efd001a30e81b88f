"""`results check` names every kind of trouble; `results prune` removes only what nobody needs."""

from __future__ import annotations

from pathlib import Path

import pytest
from replay import write_checkpoint
from test_study import engine, place, score  # noqa: F401  (fixtures)
from typer.testing import CliRunner

from harness import integrity
from harness.cli import app


@pytest.fixture
def scored(place: Path, engine) -> Path:  # noqa: F811
    score(place)
    return place / "results" / "tiny"


def kinds(folder: Path) -> dict[str, int]:
    found: dict[str, int] = {}
    for finding in integrity.check(folder):
        found[finding.kind] = found.get(finding.kind, 0) + 1
    return found


def test_a_sound_study_has_only_good_news(scored: Path):
    assert kinds(scored) == {"ok": 10}


def test_each_trouble_is_named(scored: Path):
    cells = sorted((scored / "cells").rglob("*.parquet"))
    cells[0].unlink()
    data = bytearray(cells[1].read_bytes())
    data[60] ^= 0xFF
    cells[1].write_bytes(data)
    cells[2].rename(cells[2].with_name("0" * 20 + ".parquet"))
    cells[3].write_bytes(cells[4].read_bytes())
    (scored / "cells" / "words" / "notes.txt").write_text("mine")
    assert kinds(scored) == {"ok": 6, "missing": 2, "damaged": 2, "foreign": 2}
    texts = {f.file.name: f.text for f in integrity.check(scored)}
    assert texts[cells[3].name] == (
        "its signature belongs to another cell; delete this file and score again"
    )


def test_prune_shows_before_it_removes(scored: Path, place: Path, engine):  # noqa: F811
    write_checkpoint(place / "ckpt" / "a2", 77)
    score(place)
    stale = [f.file for f in integrity.removable(integrity.check(scored))]
    assert len(stale) == 2
    run = CliRunner().invoke(app, ["results", "prune", str(scored)])
    assert run.exit_code == 0 and "would be removed" in run.output
    assert kinds(scored)["stale"] == 2
    run = CliRunner().invoke(app, ["results", "prune", str(scored), "--yes"])
    assert run.exit_code == 0 and kinds(scored) == {"ok": 10}


def test_check_exits_6_when_something_is_missing(scored: Path):
    assert CliRunner().invoke(app, ["results", "check", str(scored)]).exit_code == 0
    next((scored / "cells").rglob("*.parquet")).unlink()
    run = CliRunner().invoke(app, ["results", "check", str(scored)])
    assert run.exit_code == 6 and "not scored yet" in run.output
