"""The store keeps what it said it kept: across kills, torn tails, flipped bytes and writers."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.errors import DataError, ResultsError
from harness.storage.result_files import write_atomically
from harness.storage.signatures import cell_id
from harness.storage.store import Journal, Store
from harness.types import Prediction, Sample

SIGNATURE = {"task": "t", "n": 3, "checkpoint": "abc"}
THREE = [
    Prediction("1", text="red", finish_reason="stop", n_tokens=1),
    Prediction("2", status="failed", reason="no picture"),
    Prediction("3", text="‮=cmd|\x00\n", class_mass={"number": 0.25}, choice_scores=(-1.0, -2.0)),
]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "study")


def seal(store: Store, predictions=THREE) -> Path:
    journal = store.journal("t", SIGNATURE)
    journal.append(predictions)
    journal.seal(["1", "2", "3"])
    return store.cell_file("t", cell_id(SIGNATURE))


def test_what_was_stored_is_read_back(store: Store):
    seal(store)
    table, metadata = store.read_cell("t", cell_id(SIGNATURE))
    rows = table.to_pylist()
    assert [row["text"] for row in rows] == ["red", "", "‮=cmd|\x00\n"]
    assert rows[1]["status"] == "failed" and rows[1]["reason"] == "no picture"
    assert rows[2]["class_mass"] == [("number", 0.25)] and rows[2]["choice_scores"] == [-1.0, -2.0]
    assert metadata["signature"] == SIGNATURE and (metadata["n"], metadata["n_failed"]) == (3, 1)


def test_a_sealed_cell_does_not_depend_on_the_order_of_arrival(store: Store, tmp_path: Path):
    other = Store(tmp_path / "other")
    assert seal(store).read_bytes() == seal(other, THREE[::-1]).read_bytes()


def test_a_journal_goes_on_where_it_was_torn(store: Store):
    journal = store.journal("t", SIGNATURE)
    journal.append(THREE[:2])
    journal.close()
    whole = journal.file.read_bytes()
    journal.file.write_bytes(whole + b'{"sample_id": "3", "te')
    again = store.journal("t", SIGNATURE)
    assert set(again.done) == {"1", "2"}
    again.append(THREE[2:])
    again.seal(["1", "2", "3"])
    assert store.read_cell("t", cell_id(SIGNATURE))[0].num_rows == 3
    assert not again.file.exists()


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 400), tail=st.binary(max_size=30))
def test_any_cut_of_a_journal_owes_only_what_it_lost(tmp_path: Path, cut: int, tail: bytes):
    store = Store(tmp_path / f"cut{cut}-{tail.hex()}")
    journal = store.journal("t", SIGNATURE)
    journal.append(THREE)
    journal.close()
    lines = journal.file.read_bytes()
    journal.file.write_bytes(lines[:cut] + tail)
    again = store.journal("t", SIGNATURE)
    assert len(again.done) >= lines[:cut].count(b"\n")
    assert all(p in THREE for p in again.done.values())
    again.append([p for p in THREE if p.sample_id not in again.done])
    again.close()
    assert set(store.journal("t", SIGNATURE).done) == {"1", "2", "3"}


def test_failed_predictions_are_owed_again_on_request(store: Store):
    seal(store)
    journal = store.journal("t", SIGNATURE)
    assert set(journal.done) == {"1", "3"}
    journal.append([Prediction("2", text="blue")])
    journal.seal(["1", "2", "3"])
    assert store.read_cell("t", cell_id(SIGNATURE))[1]["n_failed"] == 0


def test_a_flipped_byte_is_noticed_or_changes_nothing(store: Store):
    file = seal(store)
    whole = file.read_bytes()
    rows = store.read_cell("t", cell_id(SIGNATURE))[0].to_pylist()
    noticed = 0
    for position in range(0, len(whole), 41):
        file.write_bytes(whole[:position] + bytes([whole[position] ^ 0x41]) + whole[position + 1 :])
        try:
            assert store.read_cell("t", cell_id(SIGNATURE))[0].to_pylist() == rows
        except ResultsError as error:
            assert file.name in str(error)
            noticed += 1
    assert noticed > 10


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(cut=st.integers(0, 5_000), tail=st.binary(max_size=100))
def test_no_damaged_cell_escapes_as_a_traceback(tmp_path: Path, cut: int, tail: bytes):
    store = Store(tmp_path / f"cut{cut}-{tail.hex()}"[:200])
    file = seal(store)
    file.write_bytes(file.read_bytes()[:cut] + tail)
    try:
        store.read_cell("t", cell_id(SIGNATURE))
    except ResultsError as error:
        assert file.name in str(error)


def test_a_newer_schema_says_update(store: Store):
    import json

    import pyarrow.parquet as pq

    file = seal(store)
    table = pq.read_table(file)
    table = table.replace_schema_metadata({b"forgeteval": json.dumps({"schema": 99}).encode()})
    pq.write_table(table, file)
    with pytest.raises(
        ResultsError, match="has schema 99, this program reads 1; update forgeteval"
    ):
        store.read_cell("t", cell_id(SIGNATURE))


def test_samples_come_back_without_their_images(store: Store):
    sample = Sample("1", "what?", ("a", "b"), choices=("x", "y"), group="g", answer_type="letter",
                    chance=0.5, doc={"category": "c", "n": 1})  # fmt: skip
    store.write_samples("t", "f" * 64, [sample])
    assert store.read_samples("t", "f" * 64) == [sample]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "a.json"
    for nothing in ("", "/", "."):
        with pytest.raises(ResultsError, match="names no file to write to"):
            write_atomically(Path(nothing), b"x")
    write_atomically(file, b"old")

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ResultsError, match="cannot be written: No space left on device"):
        write_atomically(file, b"new")
    assert file.read_bytes() == b"old" and list(tmp_path.iterdir()) == [file]


def test_a_disk_that_fills_up_loses_no_whole_line(tmp_path: Path):
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from harness.errors import ResultsError; from harness.storage.store import Journal\n"
        "from harness.types import Prediction\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))\n"
        "journal = Journal(Path(sys.argv[1]), {})\n"
        "try:\n"
        "    for i in range(100): journal.append([Prediction(str(i), text='x' * 100)])\n"
        "except ResultsError as error: print(len(journal.done), error)\n"
    )
    sealed = tmp_path / "cell.parquet"
    done = subprocess.run([sys.executable, "-c", code, sealed], capture_output=True, text=True)
    kept = int(done.stdout.split()[0])
    assert 0 < kept < 100 and "cannot be written" in done.stdout, done.stderr
    journal = Journal(sealed, {})
    assert set(journal.done) == {str(i) for i in range(kept)}
    journal.append([Prediction("after")])
    journal.close()
    assert len(Journal(sealed, {}).done) == kept + 1


def test_a_second_writer_waits(store: Store, tmp_path: Path):
    code = (
        "import sys, time; from pathlib import Path; from harness.storage.store import Store\n"
        "with Store(Path(sys.argv[1])).writer(lambda: None):\n"
        "    print('in', flush=True); time.sleep(1.0)\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(store.folder)], stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None and other.stdout.readline() == "in\n"
    waited = []
    started = time.monotonic()
    with store.writer(lambda: waited.append(True)):
        assert waited and time.monotonic() - started > 0.3
    assert other.wait() == 0


def test_files_that_a_killed_writer_left_aside_are_removed_by_the_next(store: Store):
    file = seal(store)
    asides = [store.folder / ".study.json.123", file.with_name(f".{file.name}.77")]
    for aside in asides:
        aside.write_text("half")
    mine = file.with_name(".notes.parquet.txt")
    mine.write_text("not ours")
    with store.writer(lambda: None):
        assert not any(aside.exists() for aside in asides)
    assert file.exists() and mine.exists()


def test_a_journal_that_was_sealed_is_removed_by_the_next_writer(store: Store):
    journal = store.journal("t", SIGNATURE)
    journal.append(THREE)
    lines = journal.file.read_bytes()
    file = seal(store)
    journal.file.write_bytes(lines)  # killed between the seal and the journal's end
    with store.writer(lambda: None):
        assert not journal.file.exists() and file.exists()
    retried = store.journal("t", SIGNATURE)
    retried.append([Prediction("2", text="blue")])
    retried.close()
    with store.writer(lambda: None):
        assert retried.file.exists(), "an answer that was asked again is lost"
    assert store.journal("t", SIGNATURE).done["2"].text == "blue"


WILD_LINES = st.dictionaries(
    st.sampled_from(["sample_id", "status", "text", "reason", "n_tokens", "class_mass", "choice_scores", "x"]),
    st.none() | st.text(max_size=3) | st.integers() | st.floats() | st.lists(st.floats(), max_size=2)
    | st.dictionaries(st.text(max_size=2), st.floats() | st.none(), max_size=2),
)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(lines=st.lists(WILD_LINES | st.recursive(st.none(), st.lists, max_leaves=3), max_size=4))
def test_a_journal_that_anybody_wrote_is_read_and_sealed_or_owed(tmp_path: Path, lines: list):
    import json
    import uuid

    store = Store(tmp_path / uuid.uuid4().hex)
    journal = store.journal("t", SIGNATURE)
    journal.append(THREE[:1])
    journal.close()
    with journal.file.open("a") as stream:
        stream.writelines(json.dumps(line) + "\n" for line in lines)
    again = store.journal("t", SIGNATURE)
    assert "1" in again.done
    again.append(THREE[1:])
    again.seal(list(again.done))
    assert store.read_cell("t", cell_id(SIGNATURE))[0].num_rows >= 3


def test_half_characters_are_replaced_in_answers_and_refused_in_data(store: Store):
    journal = store.journal("t", SIGNATURE)
    journal.append([Prediction("1", text="a\ud800b", reason="\udfff")])
    journal.seal(["1"])
    (row,) = store.read_cell("t", cell_id(SIGNATURE))[0].to_pylist()
    assert (row["text"], row["reason"]) == ("a?b", "?")
    with pytest.raises(DataError, match="t: an id, question or answer holds half a character"):
        store.write_samples("t", "f" * 64, [Sample("1", "\ud800", ("a",))])
