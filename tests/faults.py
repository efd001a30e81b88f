"""A sweep under faults: real processes on a real store, with an engine that needs no torch.

Every scenario starts the program as its users do (`forgeteval score`, only the engine replaced),
harms it, runs it again, and says what the store then holds. Processes are forked from one that
has imported everything, so that a kill costs milliseconds. `python tests/faults.py --kills 50`
prints what happened as JSON lines; `tests/test_faults.py` and `benchmarks/faults.py` run it.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import errno
import hashlib
import io
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

sys.path.insert(0, str(Path(__file__).parent.parent))

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from replay import write_checkpoint

import harness.cli as command_line
from harness import engines, study  # noqa: F401  (imported once, then forked)
from harness.analysis import judge  # noqa: F401
from harness.errors import EngineError
from harness.record import read_record
from harness.report import csv_files, live, plan_tables, tables  # noqa: F401
from harness.scoring import study as scoring  # noqa: F401
from harness.storage.store import Journal, Store
from harness.types import Checkpoint, Prediction, Request

N_SAMPLES = 400
CHECKPOINTS = ("base", "s1", "s2", "t1")
TASKS = ("colors", "words")
MANIFEST = """
study: faults
base: ckpt/base
suite:
  targets: [colors]
  held_out: [words]
  tasks:
    colors: {path: data/colors.parquet, scorer: exact}
    words: {path: data/words.parquet, scorer: exact}
strategies:
  s: {stages: [{trained_on: colors, path: ckpt/s1}, {path: ckpt/s2, name: later}]}
  t: {stages: [{trained_on: colors, path: ckpt/t1}]}
"""
CSV_FILES = ("scores.csv", "deltas.csv", "leaderboard.csv")


@dataclass(frozen=True, slots=True)
class Finding:
    """What a scenario showed."""

    fault: str
    n: int
    """How often the fault struck."""
    ok: bool
    text: str


# --- The study -------------------------------------------------------------------------------


def write_place(folder: Path) -> None:
    """A study of four checkpoints and two tasks of 400 questions on 8 x 8 pictures."""
    for number, name in enumerate(CHECKPOINTS):
        write_checkpoint(folder / "ckpt" / name, number)
    (folder / "data").mkdir()
    for name in TASKS:
        rows = []
        for i in range(N_SAMPLES):
            data = io.BytesIO()
            Image.new("RGB", (8, 8), (i // 2 % 250, 0, 0)).save(data, "PNG")
            picture = {"bytes": data.getvalue(), "path": None}
            rows.append({"id": str(i), "image": picture, "question": f"{name} {i}?",
                         "answer": "red"})  # fmt: skip
        pq.write_table(pa.Table.from_pylist(rows), folder / "data" / f"{name}.parquet")
    (folder / "study.yaml").write_text(MANIFEST)


def answer(checkpoint: Checkpoint, request: Request) -> str:
    """Red or blue, by checkpoint and question alone."""
    key = f"{checkpoint.fingerprint} {request.parts}".encode()
    return "red" if hashlib.sha256(key).digest()[0] < 150 else "blue"


class LoggedEngine:
    """Answers by rule and writes each answer down at the moment it is computed."""

    identity: ClassVar = {"engine": "replay"}

    def __init__(self, log: Path, before: Callable[[int], None] = lambda n: None):
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._before = before
        self._n = 0

    def load(self, checkpoint: Checkpoint) -> None:
        self._current = checkpoint

    def generate(self, requests: Sequence[Request]) -> Iterator[Prediction]:
        for request in reversed(requests):
            self._before(self._n)
            self._n += 1
            task = str(request.parts[-1]).split()[0]
            name = f"{self._current.fingerprint} {task} {request.sample_id}\n"
            os.write(self._log, name.encode())
            text = answer(self._current, request)
            yield Prediction(request.sample_id, text=text, finish_reason="stop", n_tokens=1)

    log_likelihood = generate

    def close(self) -> None:
        pass


# --- Processes -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Place:
    """A study and a results folder of its own, with the log of all answers computed for it."""

    root: Path
    name: str

    @property
    def results(self) -> Path:
        return self.root / self.name

    @property
    def log(self) -> Path:
        return self.root / f"{self.name}.log"

    @property
    def said(self) -> Path:
        return self.root / f"{self.name}.said"

    @property
    def output(self) -> Path:
        return self.root / f"{self.name}.out"

    def files(self) -> dict[str, bytes]:
        """Everything but caches, locks and logs: what two runs must agree on."""
        folder = self.results / "faults"
        found = [f for f in sorted(folder.rglob("*")) if f.is_file()]
        return {
            str(f.relative_to(folder)): f.read_bytes()
            for f in found
            if f.name != ".lock" and f.parent.name != "logs"
        }

    def durable(self) -> tuple[set[str], int]:
        """Every answer that would survive, and how many of them are in sealed cells."""
        store = Store(self.results / "faults")
        if not (store.folder / "study.json").is_file():
            return set(), 0
        cells = {
            (task, cell): stage["checkpoint"]
            for stage in read_record(store.folder)["stages"]
            for task, cell in stage["cells"].items()
        }
        found: set[str] = set()
        sealed = 0
        for (task, cell), fingerprint in cells.items():
            if store.is_sealed(task, cell):
                names = store.read_cell(task, cell)[0]["sample_id"].to_pylist()
                sealed += len(names)
            else:
                names = list(Journal(store.cell_file(task, cell), {}).done)
            found |= {f"{fingerprint} {task} {name}" for name in names}
        return found, sealed

    def computed(self) -> list[str]:
        """Every answer that an engine gave, in order."""
        return self.log.read_text().splitlines() if self.log.exists() else []

    def said_done(self) -> int:
        """How many answers of the cells it owed the last run called done."""
        said = self.said.read_text().split() if self.said.exists() else []
        return int(said[-1]) if said else 0


def fork(act: Callable[[], int | None]) -> int:
    """Runs `act` in a process of its own; its id."""
    pid = os.fork()
    if pid:
        return pid
    code = 99
    try:
        code = act() or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def wait(pid: int) -> int:
    """Exit code of a process; negative: the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def command(place: Place, *arguments: str, engine: Callable[[], Any] | None = None) -> int:
    """`forgeteval ARGUMENTS` in this process with the engine replaced; its exit code."""
    made = engine or (lambda: LoggedEngine(place.log))
    engines.create = lambda kind, options: made()  # type: ignore[assignment]
    sys.argv = ["forgeteval", *arguments]
    out = place.output.open("a")
    os.dup2(out.fileno(), 1)
    os.dup2(out.fileno(), 2)
    try:
        command_line.main()
    except SystemExit as done:
        return int(done.code or 0)
    return 0


def score(place: Place, engine: Callable[[], Any] | None = None) -> int:
    """`forgeteval score study.yaml` in this process."""
    manifest = str(place.root / "study.yaml")
    said = os.open(place.said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def answered(watch: live.PlainLines, n: int, n_failed: int) -> None:
        watch.done += n
        os.write(said, f"{watch.done} ".encode())

    live.PlainLines.answered = answered  # type: ignore[method-assign]
    return command(place, "score", manifest, "--results", str(place.results), engine=engine)


def finished(place: Place) -> dict[str, bytes]:
    """Every file after the last run."""
    assert wait(fork(lambda: score(place))) == 0, place.output.read_text()[-2000:]
    return place.files()


def compared(place: Place) -> dict[str, bytes]:
    """The three CSV files of a finished study."""
    folder = place.results / "faults"
    assert wait(fork(lambda: command(place, "compare", str(folder)))) == 0, place.output.read_text()
    return {name: (folder / name).read_bytes() for name in CSV_FILES}


# --- Faults ----------------------------------------------------------------------------------


class Scenarios:
    """Faults that strike one study; `whole` is what an undisturbed run left."""

    def __init__(self, root: Path, seed: int = 0):
        self._root = root
        self._rng = random.Random(seed)
        pid = fork(lambda: write_place(root))
        assert wait(pid) == 0
        began = time.monotonic()
        self.whole = finished(Place(root, "whole"))
        self._seconds = time.monotonic() - began
        self._tables = compared(Place(root, "whole"))

    def _verdict(self, fault: str, n: int, place: Place, text: str, ok: bool = True) -> Finding:
        """Runs what is owed and compares every byte."""
        same = finished(place) == self.whole
        said = place.output.read_text()
        clean = "Traceback" not in said and "internal error" not in said
        more = "" if same else "; FILES DIFFER"
        more += "" if clean else f"; TRACEBACK: {said[-1500:]}"
        return Finding(fault, n, ok and same and clean, text + more)

    def kills(self, n: int) -> Finding:
        """kill -9 at random moments; whenever a study is complete, the next one begins."""
        struck = lives = again = lost = 0
        different: list[str] = []
        while struck < n:
            place = Place(self._root, f"life{lives}")
            lives += 1
            durable: set[str] = set()
            sealed = seen = 0
            killed = True
            while killed and struck < n:
                place.said.unlink(missing_ok=True)
                killed = self._kill(place)
                struck += killed
                before, (durable, now_sealed) = durable, place.durable()
                asked = place.computed()
                again += len(before.intersection(asked[seen:]))
                lost += len(before - durable) + max(0, sealed + place.said_done() - len(durable))
                seen, sealed = len(asked), now_sealed
            odd = finished(place).items() ^ self.whole.items()
            different += sorted({name for name, _ in odd})
        if compared(place) != self._tables:
            different += CSV_FILES
        text = f"{lives} studies; {lost} answers lost, {again} stored answers asked again"
        text += f"; other bytes in {', '.join(different)}" if different else ""
        return Finding("kill -9", struck, not (different or lost or again), text)

    def _kill(self, place: Place) -> bool:
        """Starts a run and kills it; False if it was done before."""
        pid = fork(lambda: score(place))
        time.sleep(self._rng.random() * self._seconds)
        os.kill(pid, signal.SIGKILL)
        killed = wait(pid) == -signal.SIGKILL
        # Moments that come after the end of a run teach nothing: aim earlier.
        self._seconds *= 1.05 if killed else 0.7
        return killed

    def stops(self) -> Iterator[Finding]:
        """SIGTERM and SIGINT end cleanly and say how to go on."""
        for stop in (signal.SIGTERM, signal.SIGINT):
            place = Place(self._root, stop.name)

            def strike(n: int, stop: signal.Signals = stop) -> None:
                if n == 1000:
                    os.kill(os.getpid(), stop)

            code = wait(fork(lambda p=place, s=strike: score(p, lambda: LoggedEngine(p.log, s))))
            said = place.output.read_text()
            ok = code == 130 and "Go on with: forgeteval score" in said
            kept = len(place.durable()[0])
            ok &= kept == len(place.computed()) == 1000
            yield self._verdict(stop.name, 1, place, f"exit {code}, {kept} answers kept", ok)

    def full_disk(self) -> Iterator[Finding]:
        """A size limit that the system enforces, then every write in turn refused."""
        place = Place(self._root, "limit")

        def limited() -> int:
            resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, 12_000))
            return score(place)

        code = wait(fork(limited))
        ok = code == 2 and "cannot be written" in place.output.read_text()
        yield self._verdict("file size limit", 1, place, f"exit {code}", ok)
        place = Place(self._root, "full")
        struck = 0
        for after in (0, 1, 2, 3, 5, 8, 13, 21, 34):
            code = wait(fork(lambda k=after: _with_full_disk(k, place)))
            struck += code == 2
        yield self._verdict("disk full at the n-th write", struck, place, "exit 2", struck >= 6)

    def read_only(self) -> Finding:
        """A results folder that may not be written."""
        place = Place(self._root, "readonly")
        place.results.mkdir()
        place.results.chmod(0o500)

        def act() -> int:
            _drop_privileges()
            return score(place)

        code = wait(fork(act))
        place.results.chmod(0o700)
        ok = code == 2 and "cannot be written: Permission denied" in place.output.read_text()
        return self._verdict("read-only folder", 1, place, f"exit {code}", ok)

    def clock(self) -> Finding:
        """The clock goes back a year in mid-sweep; a checkpoint rewritten then is noticed."""
        place = Place(self._root, "clock")

        def back(n: int) -> None:
            if n == 1000:
                real = time.time
                time.time = lambda: real() - 3e7 - n
                for file in place.results.rglob("*"):
                    os.utime(file, (4e9, 4e9))
                os.kill(os.getpid(), signal.SIGKILL)

        wait(fork(lambda: score(place, lambda: LoggedEngine(place.log, back))))
        weights = self._root / "ckpt" / "t1" / "model.safetensors"
        before = weights.read_bytes()
        write_checkpoint(weights.parent, 99)
        os.utime(weights, (1e9, 1e9))
        noticed = wait(fork(lambda: score(place))) == 0
        cells = len(list((place.results / "faults/cells").rglob("*.parquet")))
        weights.write_bytes(before)
        os.utime(weights, (5e8, 5e8))
        # The cells of the weights that lay there for a while are kept, and are stale now.
        assert wait(fork(lambda: score(place))) == 0
        prune = ("results", "prune", str(place.results / "faults"), "--yes")
        assert wait(fork(lambda: command(place, *prune))) == 0
        text = f"{cells} cells, then those of the rewritten checkpoint pruned"
        return self._verdict("clock moved back", 1, place, text, noticed and cells == 8)

    def two_at_once(self) -> Finding:
        """Two processes on one results folder: nothing is asked twice."""
        place = Place(self._root, "two")
        pids = [fork(lambda: score(place)) for _ in range(2)]
        codes = [wait(pid) for pid in pids]
        twice = len(place.computed()) - len(set(place.computed()))
        ok = codes == [0, 0] and not twice
        return self._verdict("two processes at once", 2, place, f"{twice} asked twice", ok)

    def engine_deaths(self) -> Iterator[Finding]:
        """The engine's own process killed under the run, once or whenever it is started."""
        place = Place(self._root, "death")
        code = wait(fork(lambda: score(place, lambda: MortalEngine(place.log, 700))))
        twice = len(place.computed()) - len(set(place.computed()))
        text = f"exit {code}, {twice} in flight asked again"
        ok = code == 0 and twice == 4  # those that each process died of
        yield self._verdict("engine killed, started again", 4, place, text, ok)
        place = Place(self._root, "deaths")
        code = wait(fork(lambda: score(place, lambda: MortalEngine(place.log, 50))))
        said = place.output.read_text()
        logs = list((place.results / "faults" / "logs").glob("*.log"))
        ok = code == 6 and "died with" in said and len(logs) == 8
        yield self._verdict("engine dies again and again", 16, place, f"exit {code}", ok)


class MortalEngine(LoggedEngine):
    """An engine whose answers come from a process of its own, killed after so many."""

    def __init__(self, log: Path, lifetime: int):
        super().__init__(log)
        self._lifetime = lifetime
        self._here, there = os.pipe(), os.pipe()
        self._there = there
        self._pid = fork(self._work)
        os.close(self._here[0])
        os.close(there[1])

    def _work(self) -> int:
        os.close(self._here[1])
        while os.read(self._here[0], 1):
            os.write(self._there[1], b".")
        return 0

    def generate(self, requests: Sequence[Request]) -> Iterator[Prediction]:
        for prediction in super().generate(requests):
            if self._n == self._lifetime:
                os.kill(self._pid, signal.SIGKILL)
                os.waitpid(self._pid, 0)
            os.write(self._here[1], b".")  # BrokenPipeError once nobody reads
            if not os.read(self._there[0], 1):
                raise EngineError("engine", "ended in the middle of an answer")
            yield prediction

    log_likelihood = generate

    def close(self) -> None:
        for end in (self._here[1], self._there[0]):
            os.close(end)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)


def _with_full_disk(after: int, place: Place) -> int:
    """`score` on a disk that takes so many more writes and then none."""
    real, left = os.fsync, [after]

    def fsync(fd: int) -> None:
        if left[0] <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        left[0] -= 1
        real(fd)

    os.fsync = fsync
    return score(place)


def _drop_privileges() -> None:
    """Root ignores a folder's permissions; without its capabilities it does not."""
    if os.getuid() == 0:
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)
        nothing = (ctypes.c_uint32 * 6)()
        assert ctypes.CDLL(None).capset(header, nothing) == 0


def run_all(root: Path, kills: int) -> Iterator[Finding]:
    """Every scenario, one finding each."""
    scenarios = Scenarios(root)
    yield scenarios.kills(kills)
    yield from scenarios.stops()
    yield from scenarios.full_disk()
    yield scenarios.read_only()
    yield scenarios.clock()
    yield scenarios.two_at_once()
    yield from scenarios.engine_deaths()


def main() -> None:
    """Findings as JSON lines; exit code 1 if any is bad."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=50)
    arguments = parser.parse_args()
    bad = False
    with tempfile.TemporaryDirectory() as folder:
        for finding in run_all(Path(folder), arguments.kills):
            print(json.dumps(asdict(finding)), flush=True)
            bad |= not finding.ok
    sys.exit(int(bad))


if __name__ == "__main__":
    main()
