"""Answers graded by the reference programs (`golden/*.jsonl`): where they lie, whose task they are."""

from __future__ import annotations

from pathlib import Path

GOLDEN = Path(__file__).parent / "golden"
# Tables whose name is not that of our task.
TASK_OF = {
    "textvqa_val": "textvqa",
    "docvqa_val": "docvqa",
    "infovqa_val": "infovqa",
    "scienceqa_img": "scienceqa",
    "pixmocount": "pixmo_count",
    "mmmu_val": "mmmu",
    "vqav2_val": "vqav2",
    "mmbench_en_dev_static": "mmbench",
    "countbench_upstream": "countbench",
}
# The fork and the release score these alike; only the release cuts out reasoning blocks.
SHARED = ("ai2d", "chartqa", "docvqa_val", "infovqa_val", "seedbench", "textvqa_val")
