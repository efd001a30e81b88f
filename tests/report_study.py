"""A made-up study with words: what the tests of the report read, benign or hostile.

Scores follow a plan (the counting stage under `llm` turns a share of answers into bare numbers,
`sa_proj` stays level), so a report of it has something to show. Seeded: equal calls, equal files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from harness.interop.score_files import import_scores

HELD_OUT = ("color", "shape", "presence", "choice", "size", "digit")
TARGETS = ("species", "count", "path", "clock")
# Loss of held-out benchmarks after each stage, and gain of the target at its own stage.
COURSES = {
    "llm": ((0.12, 0.30, 0.20, 0.28), 0.25),
    "sa_proj": ((0.02, 0.05, 0.04, 0.04), 0.20),
    "mlp_gate_up": ((0.00, 0.03, 0.01, 0.02), 0.22),
    "mlp": ((0.04, 0.15, 0.10, 0.12), 0.24),
}
WORDS = {
    "color": "red", "shape": "circle", "presence": "yes", "choice": "B", "size": "large",
    "digit": "seven", "species": "kite", "count": "4", "path": "yes", "clock": "10:30",
}  # fmt: skip
HOSTILE = (
    "<script>document.title = 'owned'</script>",
    "</script><script>window.owned = 1</script>",
    '"><img src=x onerror="window.owned = 1">',
    "{{7*7}} ${7*7} {% raw %}",
    "abc\u202egnp.exe\u2066\u200f",
    "A" * 100_000,
    "bell\x07 null\x00 esc\x1b[31m del\x7f \ud7ff\u2028",
    "<!--", "]]>", "=cmd|' /C calc'!A0", "&lt;b&gt;", "\\u003cscript\\u003e",
)  # fmt: skip


def rows(
    *, runs: int = 3, samples: int = 40, strategies: int = 4, hostile: bool = False, seed: int = 0
) -> Iterator[dict[str, Any]]:
    """Score rows of up to 4 strategies, 4 stages and 10 benchmarks; strict and lenient."""
    rng = np.random.default_rng(seed)
    difficulty = {name: rng.random(samples) for name in (*TARGETS, *HELD_OUT)}
    first = {name: 0.55 if name in TARGETS else 0.92 for name in difficulty}
    yield from _cell("base", "0", 0, "base", None, first, difficulty, 0.0, hostile)
    for strategy, (losses, gain) in list(COURSES.items())[:strategies]:
        for run in range(runs):
            shift = rng.normal(0, 0.02)
            learned = dict(first)
            for stage, (target, loss) in enumerate(zip(TARGETS, losses, strict=True), start=1):
                learned[target] = first[target] + gain
                level = {
                    name: share if name in TARGETS else share - loss - shift
                    for name, share in learned.items()
                }
                drift = loss if target in ("count", "clock") else loss / 4
                yield from _cell(
                    strategy, str(run), stage, target, target, level, difficulty, drift, hostile
                )


def _cell(
    strategy: str, run: str, stage: int, name: str, trained_on: str | None,
    level: dict[str, float], difficulty: dict[str, Any], drift: float, hostile: bool,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    for benchmark, hard in difficulty.items():
        for i, threshold in enumerate(hard):
            right = bool(threshold < level[benchmark])
            formed = right or bool(threshold < level[benchmark] + drift / 2)
            response = WORDS[benchmark] if right else ("3" if i % 2 else "a dark thing")
            if formed and not right:
                response = f"it is {WORDS[benchmark]}"
            if hostile:
                response += HOSTILE[i % len(HOSTILE)]
            row = {
                "strategy": strategy, "run": run, "stage": stage, "stage_name": name,
                "trained_on": trained_on or "", "benchmark": benchmark,
                "role": "target" if benchmark in TARGETS else "held_out",
                "sample_id": f"{benchmark}-{i:04d}", "group": f"picture-{i // 2}",
                "question": f"Which {benchmark} is shown in picture {i}?"
                + (HOSTILE[(i + 1) % len(HOSTILE)] if hostile else ""),
                "response": response, "gold": WORDS[benchmark],
            }  # fmt: skip
            yield {**row, "scorer": "strict", "score": float(right)}
            yield {**row, "scorer": "lenient", "score": float(formed)}


def make_study(results: Path, study: str = "made-up", **options: Any) -> Path:
    """Import `rows(**options)` as `results/<study>/`; returns that folder."""
    results.mkdir(parents=True, exist_ok=True)
    file = results / f"{study}.jsonl"
    with file.open("w", encoding="utf-8") as out:
        for row in rows(**options):
            out.write(json.dumps(row) + "\n")
    return import_scores(file, study, results, base_model="tiny-vlm").folder
