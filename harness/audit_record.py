"""The audit on record: what a study's `audit.json` says of its strategies."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# What an audit can say of a stage that declares a component, worst first.
STATUSES = ("broken", "unreadable", "mismatch", "identical", "verified")


def audited(study_dir: Path, record: Mapping[str, Any]) -> dict[str, str]:
    """strategy -> `verified`, or the worst that `audit.json` says of its stages.

    An audit of other stages, or of another declared component, is not this study's and says
    nothing; nor does a file that cannot be read.
    """
    try:
        rows = json.loads((study_dir / "audit.json").read_text(encoding="utf-8"))["stages"]
        said = {
            (row["strategy"], row["run"], row["stage"]): (row["declared"], str(row["status"]))
            for row in rows
        }
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    found: dict[str, str] = {}
    for strategy, declared in record["components"].items():
        keys = [
            (row["strategy"], row["run"], row["stage"])
            for row in record["stages"]
            if row["strategy"] == strategy
        ]
        if not keys or any(said.get(key, (None, None))[0] != declared for key in keys):
            continue
        statuses = {said[key][1] for key in keys} - {"interpolated"}
        worst = [status for status in STATUSES if status in statuses]
        if worst:
            found[strategy] = worst[0]
    return found
