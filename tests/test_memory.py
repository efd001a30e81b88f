"""A large task streams: memory does not grow with the number of samples or the size of pictures."""

from __future__ import annotations

import json
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from replay import write_checkpoint

N_SAMPLES = 60_000
N_PICTURES = 40
LIMIT_MB = 1_000
# Decoding all would take a quarter of an hour and hold one picture at a time just the same.
DECODED_EVERY = 100
MANIFEST = """
study: large
base: ckpt/base
suite:
  held_out: [scenes]
  tasks: {scenes: {path: data/scenes.jsonl, scorer: exact}}
"""
# A process of its own: the peak that counts is that of the sweep alone.
SWEEP = """
import json, sys
from pathlib import Path
sys.path[:0] = [sys.argv[2], str(Path(sys.argv[2]).parent)]
from harness import engines, study
from harness.report.live import Quiet
from replay import ReplayEngine

seen = {"pixels": 0}

def answer(checkpoint, request):
    data = request.images[0].read()
    assert len(data) > 100_000
    if int(request.sample_id) % int(sys.argv[3]) == 0:
        seen["pixels"] += int(request.images[0].decode().width) ** 2
    return "red"

engines.create = lambda kind, options: ReplayEngine(answer)
place = Path(sys.argv[1])
opened = study.open_study(place / "study.yaml", study.Options(results=place / "results"))
outcome = study.score(opened, Quiet())
status = open("/proc/self/status").read()  # ru_maxrss would count the parent of the fork
peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
print(json.dumps([outcome.n_answered, outcome.n_sealed, seen["pixels"], round(peak)]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads its peak from /proc")
@pytest.mark.slow
def test_sixty_thousand_pictures_of_four_megapixels_take_less_than_a_gigabyte(tmp_path: Path):
    write_checkpoint(tmp_path / "ckpt" / "base", 0)
    (tmp_path / "data").mkdir()
    rng = np.random.default_rng(0)
    for number in range(N_PICTURES):
        small = rng.integers(0, 255, (250, 250, 3), dtype=np.uint8)
        out = BytesIO()
        Image.fromarray(small).resize((2000, 2000)).save(out, "JPEG", quality=70)
        (tmp_path / "data" / f"{number}.jpg").write_bytes(out.getvalue())
    with (tmp_path / "data" / "scenes.jsonl").open("w") as lines:
        for i in range(N_SAMPLES):
            row = {"id": str(i), "image": f"{i % N_PICTURES}.jpg", "question": f"What is {i}?"}
            lines.write(json.dumps(row | {"answer": "red"}) + "\n")
    (tmp_path / "study.yaml").write_text(MANIFEST)
    tests = str(Path(__file__).parent)
    command = [sys.executable, "-c", SWEEP, str(tmp_path), tests, str(DECODED_EVERY)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    answered, sealed, pixels, peak = json.loads(done.stdout)
    assert (answered, sealed, pixels) == (N_SAMPLES, 1, N_SAMPLES // DECODED_EVERY * 4_000_000)
    print(f"peak {peak} MB")
    assert peak < LIMIT_MB
