"""Wild bytes into every reader: an error with its place, never a traceback, never a hang."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from faults import write_place
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from replay import ReplayEngine
from test_import_scores import ROWS

from harness import checkpoints, engines, integrity, study
from harness.data import sources
from harness.errors import UserError
from harness.interop.score_files import import_scores, read_imported
from harness.manifest import read_manifest
from harness.registry import InlineTask, inline_task
from harness.report.live import Quiet
from harness.scoring.study import read_scores
from harness.storage.memory import Memory
from harness.storage.result_files import read_json
from harness.study import Options

pytestmark = pytest.mark.timeout(120)
wild = settings(
    max_examples=40,
    deadline=3000,  # ms: a hang is a failure
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@st.composite
def harmed(draw: st.DrawFn, whole: bytes) -> bytes:
    """The bytes with a few of them flipped, cut out, or replaced by noise."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        match draw(st.sampled_from(["flip", "cut", "noise", "end", "repeat"])):
            case "flip" if data:
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del data[at : at + draw(st.integers(1, 40))]
            case "noise":
                data[at:at] = draw(st.binary(max_size=12))
            case "end":
                del data[at:]
            case "repeat":
                data[at:at] = data[at : at + 20]
    return bytes(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study of four checkpoints and two tasks."""
    place = tmp_path_factory.mktemp("fuzz")
    write_place(place)
    with pytest.MonkeyPatch.context() as patch:
        engine = ReplayEngine(lambda checkpoint, request: "red")
        patch.setattr(engines, "create", lambda kind, options: engine)
        options = Options(results=place / "results", limit=6)
        study.score(study.open_study(place / "study.yaml", options), Quiet())
    return place


def refused(act, *arguments: object) -> bool:
    """Whether `act` refused its input in the words of this project; anything else is raised."""
    try:
        act(*arguments)
    except UserError as error:
        assert error.problems and str(error).strip()
        return True
    return False


@wild
@given(data=st.data())
def test_harmed_manifests(scored: Path, data: st.DataObject):
    file = scored / "wild.yaml"
    file.write_bytes(data.draw(harmed((scored / "study.yaml").read_bytes())))
    refused(read_manifest, file)


@wild
@given(
    noise=st.binary(max_size=200)
    | st.text(max_size=200).map(lambda t: t.encode("utf-8", "replace"))
)
def test_noise_is_no_manifest(tmp_path: Path, noise: bytes):
    (tmp_path / "m.yaml").write_bytes(noise)
    assert refused(read_manifest, tmp_path / "m.yaml")


@contextmanager
def a_copy(scored: Path) -> Iterator[Path]:
    """The scored study in a folder of its own, for one example."""
    folder = scored / uuid.uuid4().hex
    shutil.copytree(scored / "results" / "faults", folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@wild
@given(data=st.data())
def test_harmed_cells_samples_and_journals(scored: Path, data: st.DataObject):
    with a_copy(scored) as folder:
        files = sorted(f for f in folder.rglob("*.parquet"))
        file = data.draw(st.sampled_from(files))
        before = file.read_bytes()
        if data.draw(st.booleans()):
            file = file.with_suffix(".jsonl")
        file.write_bytes(data.draw(harmed(before)))
        refused(read_scores, folder)
        refused(integrity.check, folder)


@wild
@given(data=st.data())
def test_harmed_records(scored: Path, data: st.DataObject):
    with a_copy(scored) as folder:
        file = folder / "study.json"
        if data.draw(st.booleans()):
            file.write_bytes(data.draw(harmed(file.read_bytes())))
        else:
            record = json.loads(file.read_text())
            record[data.draw(st.sampled_from(sorted(record)))] = data.draw(JSON)
            file.write_text(json.dumps(record))
        refused(read_json, file)
        refused(read_scores, folder)
        refused(integrity.check, folder)


@wild
@given(data=st.data())
def test_harmed_score_files(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject):
    import pandas as pd

    folder = tmp_path_factory.mktemp("scores")
    suffix = data.draw(st.sampled_from([".csv", ".jsonl", ".parquet"]))
    file = folder / f"s{suffix}"
    frame = pd.DataFrame(ROWS)
    if suffix == ".csv":
        frame.to_csv(file, index=False)
    elif suffix == ".jsonl":
        frame.to_json(file, orient="records", lines=True)
    else:
        frame.to_parquet(file, index=False)
    file.write_bytes(data.draw(harmed(file.read_bytes())))
    if not refused(import_scores, file, "mine", folder / "results"):
        assert not refused(read_imported, folder / "results" / "mine")
    else:
        assert not (folder / "results" / "mine").exists()
    shutil.rmtree(folder)


@wild
@given(data=st.data())
def test_harmed_imported_studies(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject):
    import pandas as pd

    folder = tmp_path_factory.mktemp("imported")
    pd.DataFrame(ROWS).to_csv(folder / "s.csv", index=False)
    import_scores(folder / "s.csv", "mine", folder)
    file = folder / "mine" / data.draw(st.sampled_from(["study.json", "imported.parquet"]))
    file.write_bytes(data.draw(harmed(file.read_bytes())))
    refused(read_imported, folder / "mine")
    shutil.rmtree(folder)


@wild
@given(data=st.data())
def test_harmed_data_files(scored: Path, data: st.DataObject):
    task = inline_task("colors", InlineTask(path="x", scorer="exact"))
    suffix = data.draw(st.sampled_from([".parquet", ".jsonl", ".csv", ".json"]))
    whole = {
        ".parquet": (scored / "data/colors.parquet").read_bytes()[-9000:],
        ".jsonl": b'{"id": 1, "image": "p.png", "question": "q", "answer": "a"}\n' * 3,
        ".csv": b"id,image,question,answer\n1,p.png,q,a\n2,p.png,q,b\n",
        ".json": b'[{"id": 1, "image": "p.png", "question": "q", "answer": "a"}]',
    }[suffix]
    file = scored / "data" / f"{uuid.uuid4().hex}{suffix}"
    file.write_bytes(data.draw(harmed(whole)))

    def load() -> None:
        found = sources.load(task, sources.SourceOverride(path=file.name), base_dir=file.parent)
        for sample in found:
            assert sample.question

    try:
        refused(load)
    finally:
        file.unlink()


@wild
@given(data=st.data())
def test_harmed_checkpoints(scored: Path, data: st.DataObject):
    folder = scored / uuid.uuid4().hex
    shutil.copytree(scored / "ckpt" / "s1", folder)
    file = folder / data.draw(st.sampled_from(["model.safetensors", "config.json"]))
    file.write_bytes(data.draw(harmed(file.read_bytes())))
    try:
        refused(checkpoints.fingerprint, folder)
        refused(checkpoints.file_stamps, folder)
    finally:
        shutil.rmtree(folder)


@wild
@given(
    known=JSON | st.dictionaries(st.just("k"), JSON | st.lists(JSON, max_size=3)),
    stamp=st.booleans(),
)
def test_a_memory_that_anybody_wrote_costs_time_only(tmp_path: Path, known: object, stamp: bool):
    import hashlib

    if stamp and isinstance(known, dict) and isinstance(known.get("k"), list):
        known["k"][:1] = [hashlib.sha256(b'"s"').hexdigest()]
    file = tmp_path / "fingerprints.json"
    file.write_text(json.dumps(known))
    memory = Memory(file)
    value = memory.recall("k", "s", lambda: "computed")
    assert isinstance(value, str) or (isinstance(value, list) and len(value) == 2)
    memory.save()


@pytest.mark.parametrize("text", ["", "[" * 100_000, "\x00", '{"k": []}', '{"k": ["x"]}'])
def test_a_torn_memory_is_made_anew(tmp_path: Path, text: str):
    file = tmp_path / "fingerprints.json"
    file.write_text(text)
    memory = Memory(file)
    assert memory.recall("k", "s", lambda: "computed") == "computed"
    memory.save()
    assert Memory(file).recall("k", "s", lambda: "again") == "computed"
