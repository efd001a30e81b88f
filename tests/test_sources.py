"""Sources: every kind of file, all problems at once, subsets, and what makes them stable."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import http.server
import json
import pickle
import sys
import threading
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from make_fixtures import IMAGE, cell, picture, write

from harness import registry
from harness.data import sources
from harness.data.sources import SourceOverride
from harness.data.subset import choose
from harness.data.tables import open_path
from harness.errors import DataError, SampleError
from harness.requests import data_digest
from harness.types import Sample, Task

PATHVQA = registry.task("pathvqa")
POPE = registry.task("pope")


def rows(n: int = 4) -> list[dict]:
    return [
        {"image": cell(k // 2), "question": f"what is {k}?", "answer": f"thing {k}"}
        for k in range(n)
    ]


def load(path: Path, task=PATHVQA, **kwargs):  # type: ignore[no-untyped-def]
    return sources.load(task, SourceOverride(path=path.name), base_dir=path.parent, **kwargs)


def key(samples) -> list[tuple]:  # type: ignore[no-untyped-def]
    return [(s.id, s.question, s.answers, s.group, s.images[0].sha256) for s in samples]


def test_all_kinds_of_files_give_the_same_samples(tmp_path: Path) -> None:
    write(tmp_path / "one.parquet", rows())
    expected = key(load(tmp_path / "one.parquet"))
    assert len(expected) == 4

    hub = tmp_path / "hub" / "data"
    write(hub / "test-00000-of-00002.parquet", rows()[:2])
    write(hub / "test-00001-of-00002.parquet", rows()[2:])
    write(hub / "train-00000-of-00001.parquet", rows()[:1])
    assert key(load(tmp_path / "hub")) == expected

    table = pq.read_table(tmp_path / "one.parquet")
    with pa.ipc.new_stream(str(tmp_path / "one.arrow"), table.schema) as stream:
        stream.write_table(table, max_chunksize=3)
    assert key(load(tmp_path / "one.arrow")) == expected

    folder = tmp_path / "pictures"
    folder.mkdir()
    for k in range(2):
        (folder / f"{k}.png").write_bytes(picture(k))
    texts = [{k: v for k, v in row.items() if k != "image"} for row in rows()]
    named = [{"file_name": f"{k // 2}.png", **row} for k, row in enumerate(texts)]
    with (folder / "metadata.csv").open("w", newline="") as out:
        writer = csv.DictWriter(out, named[0])
        writer.writeheader()
        writer.writerows(named)
    assert key(load(folder)) == expected

    lines = [{"image": f"pictures/{k // 2}.png", **row} for k, row in enumerate(texts)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert key(load(tmp_path / "rows.jsonl")) == expected


@pytest.mark.slow  # importing `datasets` takes seconds
def test_folders_of_datasets_and_the_hub_path(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    write(tmp_path / "hub" / "test-00000-of-00001.parquet", rows())
    expected = key(load(tmp_path / "hub"))

    here = dataclasses.replace(PATHVQA.source, hub=str(tmp_path / "hub"))
    task = dataclasses.replace(PATHVQA, source=here)
    assert key(sources.load(task)) == expected

    held = datasets.load_dataset(str(tmp_path / "hub"), split="test")
    held.save_to_disk(str(tmp_path / "disk"), num_shards=2)
    assert key(load(tmp_path / "disk")) == expected
    datasets.DatasetDict(test=held, train=held.select([0])).save_to_disk(str(tmp_path / "dict"))
    assert key(load(tmp_path / "dict")) == expected


def test_an_unreachable_hub_says_how_to_go_on(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    def refuse(hub: str, **_: object) -> None:
        raise ConnectionError(f"Couldn't reach {hub} on the Hub\nmore")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=refuse))
    with pytest.raises(DataError) as caught:
        sources.load(registry.task("textvqa"))
    text = str(caught.value)
    assert "lmms-lab/textvqa: Couldn't reach" in text
    assert "lmms-lab-encoder/textvqa: " in text  # aliases are tried
    assert "suite.sources.<task>" in text
    assert "more" not in text


def problem_of(path: Path, task=PATHVQA) -> str:  # type: ignore[no-untyped-def]
    with pytest.raises(DataError) as caught:
        load(path, task)
    return str(caught.value)


def test_renamed_columns_are_all_named_with_those_found(tmp_path: Path) -> None:
    odd = [{"image": r["image"], "questoin": r["question"], "gold": r["answer"]} for r in rows()]
    write(tmp_path / "a.parquet", odd)
    assert problem_of(tmp_path / "a.parquet") == (
        "pathvqa: 2 problems\n"
        "  columns: no column 'question'; did you mean 'questoin'?\n"
        "  columns: no column 'answer'; found image, questoin, gold"
    )


def test_faulty_rows_are_all_named(tmp_path: Path) -> None:
    bad = rows()
    bad[1]["answer"] = ""
    bad[2]["image"] = None
    bad[3]["question"] = bad[3]["answer"] = None
    write(tmp_path / "a.parquet", bad)
    assert problem_of(tmp_path / "a.parquet") == (
        "pathvqa: 3 problems\n"
        "  row 1: has no answer\n"
        "  row 2: has no image\n"
        "  row 3: has no question and no answer"
    )


def test_a_duplicated_id_is_named_with_both_rows(tmp_path: Path) -> None:
    same = [
        {
            "id": "1",
            "question_id": name,
            "question": "Is it?",
            "answer": "yes",
            "image_source": "x",
            "image": cell(1),
            "category": "random",
        }
        for name in ("1", "2", "1")
    ]
    write(tmp_path / "a.parquet", same)
    message = "pope: row 2: has the id 'random-1' of row 0"
    assert problem_of(tmp_path / "a.parquet", POPE) == message


def test_many_problems_are_counted(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", [{**row, "answer": " "} for row in rows(30)])
    text = problem_of(tmp_path / "a.parquet")
    assert text.count("has no answer") == 10
    assert text.endswith("and 20 more rows")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"a": 1}\n{', "a.jsonl: line 2: not JSON"),
        ("a.jsonl", "[1]\n", "a.jsonl: record 0 is list, not an object"),
        ("a.csv", b"\xff\xfe\x00", "a.csv: not UTF-8 at byte 0"),
        ("a.parquet", b"no parquet", "a.parquet: cannot be read as Parquet or Arrow"),
        ("a.arrow", b"no arrow", "a.arrow: cannot be read as Parquet or Arrow"),
        ("a.txt", "x", "a.txt: got a .txt file, expected one of .parquet"),
        ("a.jsonl", '{"image": "../x.png", "question": "q", "answer": "a"}', "out of the data"),
        ("a.jsonl", '{"image": 3, "question": "q", "answer": "a"}', "expected a path"),
    ],
)
def test_damaged_files_say_what_is_wrong(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    raw = content.encode() if isinstance(content, str) else content
    (tmp_path / name).write_bytes(raw)
    assert message in problem_of(tmp_path / name)


def answered(tmp_path: Path, value: object, kind: pa.DataType) -> Path:
    write(tmp_path / "a.parquet", [{**row, "answer": value} for row in rows(1)], answer=kind)
    return tmp_path / "a.parquet"


@pytest.mark.parametrize(
    ("value", "kind", "read"),
    [
        (Decimal("3.50"), pa.decimal128(9, 2), "3.5"),
        (Decimal("300.00"), pa.decimal128(9, 2), "300"),
        (Decimal("0.00000012"), pa.decimal128(20, 8), "0.00000012"),
        (7, pa.int8(), "7"),
        (7.0, pa.float64(), "7"),
        (True, pa.bool_(), "True"),
    ],
)
def test_numbers_are_read_as_they_are_written(
    tmp_path: Path, value: object, kind: pa.DataType, read: str
) -> None:
    path = answered(tmp_path, value, kind)
    assert load(path)[0].answers == (read,)
    assert load(path, inline("exact"))[0].answers == (read,)


MOMENT = datetime(2026, 1, 2, 3, 4)


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        (MOMENT, pa.timestamp("s"), "column 'answer' holds datetime (datetime.datetime(2026,"),
        (MOMENT.time(), pa.time32("s"), "column 'answer' holds time (datetime.time(3, 4)), expec"),
        (MOMENT.date(), pa.date32(), "column 'answer' holds date (datetime.date(2026, 1, 2)), exp"),
        (b"yes", pa.binary(), "column 'answer' holds binary data, expected text or a number"),
        (float("nan"), pa.float64(), "column 'answer' holds nan, expected text or a number"),
        (float("inf"), pa.float32(), "column 'answer' holds inf, expected text or a number"),
        ({"a": 1}, pa.struct({"a": pa.int8()}), "column 'answer' holds an object ({'a': 1})"),
    ],
)
def test_other_types_are_refused_by_row_and_column(
    tmp_path: Path, value: object, kind: pa.DataType, message: str
) -> None:
    path = answered(tmp_path, value, kind)
    for task in (PATHVQA, inline("exact")):
        assert f"{task.name}: row 0: {message}" in problem_of(path, task)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question": ["a", "b"]}, "column 'question' holds a list (['a', 'b']), expected text or"),
        ({"answer": {"a": 1}}, "column 'answer' holds an object ({'a': 1}), expected text or a nu"),
        ({"answer": float("nan")}, "column 'answer' holds nan, expected text or a number"),
        ({"answer": ["a", {"b": 1}]}, "column 'answer' holds an object ({'b': 1}), expected text"),
    ],
)
def test_values_of_records_are_texts_and_numbers(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    (tmp_path / "1.png").write_bytes(picture(1))
    row = {"image": "1.png", "question": "q", "answer": "a"}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(row | change))
    assert f"leaves: row 1: {message}" in problem_of(tmp_path / "a.jsonl", inline("exact"))


def inline(scorer: str) -> Task:
    spec = {"path": "unused", "scorer": scorer}
    return registry.inline_task("leaves", registry.InlineTask.model_validate(spec))


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_lists_in_cells_of_csv_files_are_json(tmp_path: Path, name: str) -> None:
    (tmp_path / "1.png").write_bytes(picture(1))
    delimiter = "\t" if name == "a.tsv" else ","

    def load_rows(task: Task, *rows: dict[str, str]) -> list[Sample]:
        with (tmp_path / name).open("w", newline="") as out:
            writer = csv.DictWriter(out, rows[0], delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
        return list(load(tmp_path / name, task))

    row = {"image": "1.png", "question": '["q"]', "answer": "y", "choices": '["x", "y", 3]'}
    sample, by_index = load_rows(inline("choice"), row, {**row, "answer": "2"})
    assert (sample.choices, sample.answers, sample.chance) == (("x", "y", "3"), ("B",), 1 / 3)
    assert (sample.question, by_index.answers) == ('["q"]', ("C",))
    several, text = load_rows(
        inline("exact"), {**row, "answer": '["red", "dark red"]'}, {**row, "answer": "[unclear]"}
    )
    assert (several.answers, text.answers) == (("red", "dark red"), ("[unclear]",))
    with pytest.raises(DataError) as caught:
        load_rows(inline("choice"), {**row, "choices": "['x', 'y']"})
    assert str(caught.value) == (
        "leaves: row 0: column 'choices' holds one option, \"['x', 'y']\"; "
        'write a list as JSON, such as ["red", "blue"]'
    )
    with pytest.raises(DataError, match="answer '²' is no letter, index or text of 3 options"):
        load_rows(inline("choice"), {**row, "answer": "²"})


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", ""),
        ("a.jsonl", "\n\n"),
        ("a.json", "[]"),
        ("a.csv", ""),
    ],
)
def test_a_file_without_rows_says_so(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    assert problem_of(tmp_path / name) == "pathvqa: the source has no rows"


def test_a_heading_alone_names_its_columns(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("image,question,answer\n")
    assert len(load(tmp_path / "a.csv")) == 0  # the plan says that there are no rows
    (tmp_path / "a.csv").write_text("image,question\n")
    expected = "pathvqa: columns: no column 'answer'; found image, question"
    assert problem_of(tmp_path / "a.csv") == expected


def test_a_column_named_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("image,question,answer,answer,,\n1.png,q,a,b,,\n")
    assert problem_of(tmp_path / "a.csv") == (
        "a.csv: the first line names 'answer' twice; rename one of the columns"
    )


def test_missing_files_and_splits_say_what_is_there(tmp_path: Path) -> None:
    write(tmp_path / "data" / "train-00000-of-00001.parquet", rows())
    assert problem_of(tmp_path / "nothing") == (
        "nothing: no such file or folder; its folder holds data"
    )
    assert problem_of(tmp_path / "data") == "data: no split 'test'; found train"
    (tmp_path / "empty").mkdir()
    assert "no data files; expected one of .parquet" in problem_of(tmp_path / "empty")
    with pytest.raises(DataError, match=r"tallyqa: has no hub id.*suite.sources.tallyqa"):
        sources.load(registry.task("tallyqa"))


def test_shards_with_other_columns_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "d" / "test-0.parquet", rows())
    write(tmp_path / "d" / "test-1.parquet", [{**row, "extra": 1} for row in rows()])
    assert (
        problem_of(tmp_path / "d") == "d: test-1.parquet: columns differ from test-0.parquet: extra"
    )


def test_one_override_one_place() -> None:
    with pytest.raises(ValueError, match="path or hub, not both"):
        SourceOverride(path="a", hub="b")
    with pytest.raises(ValueError, match="revision belongs to a hub id"):
        SourceOverride(path="a", revision="b")


def test_images_are_not_read_until_they_are_asked_for(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    write(tmp_path / "a.parquet", [{**r, "image_id": "x", "question_id": k, "answers": ["a"]}
                                   for k, r in enumerate(rows())])  # fmt: skip
    read: list[str] = []
    opened = sources.open_path

    def watch(*args):  # type: ignore[no-untyped-def]
        table = opened(*args)
        monkeypatch.setattr(type(table), "image_bytes", lambda *_: read.append("x") or b"")
        return table

    monkeypatch.setattr(sources, "open_path", watch)
    samples = load(tmp_path / "a.parquet", registry.task("textvqa"))
    assert [len(sample.images) for sample in samples] == [1, 1, 1, 1]
    assert read == []


def test_samples_pickle_as_a_reference(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", [{**row, "image": {"bytes": picture(1) + b"x" * 50_000,
                                                     "path": None}} for row in rows()])  # fmt: skip
    samples = load(tmp_path / "a.parquet")
    image = pickle.dumps(samples[0].images[0])
    assert len(image) < 500
    assert pickle.loads(image).decode().size == (32, 24)


def test_image_identity_is_the_hash_of_the_encoded_bytes(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", rows())
    image = load(tmp_path / "a.parquet")[2].images[0]
    assert image.sha256 == hashlib.sha256(picture(1)).hexdigest()


def test_groups_follow_pixels_not_encoding(tmp_path: Path) -> None:
    from io import BytesIO

    from PIL import Image

    other = BytesIO()
    Image.open(BytesIO(picture(0))).save(other, "BMP")
    made = rows(2)
    made[1]["image"] = {"bytes": other.getvalue(), "path": None}
    write(tmp_path / "a.parquet", made)
    first, second = load(tmp_path / "a.parquet")
    assert first.group == second.group
    assert first.images[0].sha256 != second.images[0].sha256


def test_a_broken_image_fails_alone(tmp_path: Path) -> None:
    made = rows()
    made[1]["image"] = {"bytes": picture(1)[:60], "path": None}
    write(tmp_path / "a.parquet", made)
    samples = load(tmp_path / "a.parquet")
    assert samples[1].group == ""
    with pytest.raises(SampleError, match="image"):
        samples[1].images[0].decode()
    assert samples[0].images[0].decode().size == (32, 24)


def test_counting_chance_is_the_commonest_answer(tmp_path: Path) -> None:
    answers = ["2", "2", "3", "2"]
    write(
        tmp_path / "a.parquet", [{**r, "answer": a} for r, a in zip(rows(), answers, strict=True)]
    )
    samples = load(tmp_path / "a.parquet", registry.task("pixmo_count"))
    assert {sample.chance for sample in samples} == {0.75}


def test_source_stat_changes_with_files_and_revisions(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", rows())
    override = SourceOverride(path="a.parquet")
    before = sources.source_stat(PATHVQA, override, tmp_path)
    assert before == sources.source_stat(PATHVQA, override, tmp_path)
    assert str(tmp_path) not in json.dumps(before)
    write(tmp_path / "a.parquet", rows(6))
    assert before != sources.source_stat(PATHVQA, override, tmp_path)
    main = sources.source_stat(PATHVQA)
    assert main == ("hub", "flaviagiammarino/path-vqa", "test", "", "")
    pinned = SourceOverride(hub="flaviagiammarino/path-vqa", revision="abc")
    assert sources.source_stat(PATHVQA, pinned) != main


def test_the_data_digest_sees_everything_that_is_asked(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", rows())
    samples = list(load(tmp_path / "a.parquet"))
    digest = data_digest(PATHVQA, samples, "fixed")
    assert digest == data_digest(PATHVQA, load(tmp_path / "a.parquet"), "fixed")
    assert digest != data_digest(PATHVQA, samples[::-1], "fixed")
    for change in ({"question": "?"}, {"answers": ("b",)}, {"choices": ("c",)}, {"images": ()}):
        changed = [dataclasses.replace(samples[0], **change), *samples[1:]]
        assert digest != data_digest(PATHVQA, changed, "fixed")


# --- subsets ---------------------------------------------------------------------------------


def test_a_limit_takes_whole_groups_up_to_the_limit(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", rows(40))
    whole = {s.id: s.group for s in load(tmp_path / "a.parquet")}
    part = load(tmp_path / "a.parquet", limit=11)
    assert len(part) == 12
    taken = {s.group for s in part}
    assert [s.id for s in part] == [i for i, group in whole.items() if group in taken]
    assert key(part) != key(load(tmp_path / "a.parquet", limit=11, seed=1))


groups = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=40)


@given(groups, st.integers(1, 40), st.integers(0, 3), st.randoms())
def test_subsets_do_not_depend_on_row_order_and_nest(groups, limit, seed, random) -> None:  # type: ignore[no-untyped-def]
    names = [f"{group}{k}" for k, group in enumerate(groups)]
    chosen = {names[i] for i in choose("t", groups, limit, seed)}
    order = list(range(len(groups)))
    random.shuffle(order)
    shuffled = choose("t", [groups[i] for i in order], limit, seed)
    assert {names[order[i]] for i in shuffled} == chosen
    assert {names[i] for i in choose("t", groups, limit + 3, seed)} >= chosen
    assert len(chosen) >= min(limit, len(groups))
    whole = {group for name, group in zip(names, groups, strict=True) if name in chosen}
    assert {n for n, g in zip(names, groups, strict=True) if g in whole} == chosen


def test_subsets_of_tasks_and_seeds_differ() -> None:
    groups = [str(k) for k in range(200)]
    drawn = {
        (task, seed): tuple(choose(task, groups, 20, seed)) for task in "ab" for seed in (0, 1)
    }
    assert len(set(drawn.values())) == 4
    # Pinned: a study's numbers depend on it.
    assert choose("pathvqa", groups, 5, 0) == PINNED


PINNED = [57, 74, 88, 186, 192]


# --- pictures known by address ---------------------------------------------------------------


NO_HTTP = {
    "status": b"hello\r\n\r\n",
    "torn": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nabc",
    "headers": b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: 1\r\n" % k for k in range(200)) + b"\r\n",
    "version": b"HTTP/9.9.9 abc\r\n\r\n",
}


class Host(http.server.BaseHTTPRequestHandler):
    """Serves /N.png; /flaky.png works at the third attempt; some are no HTTP; the rest is gone."""

    asked: list[str]

    def do_GET(self) -> None:
        Host.asked.append(self.path)
        name = self.path.strip("/").removesuffix(".png")
        if name == "flaky" and Host.asked.count(self.path) < 3:
            self.send_error(503)
        elif name in NO_HTTP:
            self.wfile.write(NO_HTTP[name])
        elif name == "flaky" or name.isdigit():
            self.send_response(200)
            self.end_headers()
            self.wfile.write(picture(7 if name == "flaky" else int(name)))
        else:
            self.send_error(404)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def host(tmp_path: Path, monkeypatch) -> Iterator[str]:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("FORGETEVAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("harness.data.images.time.sleep", lambda _: None)
    Host.asked = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Host)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def addressed(host: str) -> list[dict]:
    def row(name: str, seed: int) -> dict:
        known = hashlib.sha256(picture(seed)).hexdigest()
        return {
            "image_url": f"{host}/{name}.png",
            "image_sha256": known,
            "label": "dogs",
            "count": 2,
            "points": [],
        }

    return [row("1", 1), row("flaky", 7), row("gone", 2), row("3", 4)]


def test_addressed_pictures_are_fetched_once_and_dead_links_fail_alone(
    host: str, tmp_path: Path
) -> None:
    write(tmp_path / "a.parquet", addressed(host), points=pa.list_(pa.float64()))
    task = registry.task("pixmo_count")
    samples = load(tmp_path / "a.parquet", task)
    assert sorted(Host.asked) == ["/1.png", "/3.png", *["/flaky.png"] * 3, "/gone.png"]
    outcomes = []
    for sample in samples:
        try:
            outcomes.append(sample.images[0].decode().size)
        except SampleError as error:
            outcomes.append(str(error).split(" from ")[0].split(" at ")[0])
    size = (32, 24)
    gone, changed = "dead link: HTTP 404", "sha256 of the picture"
    assert outcomes == [size, size, gone, changed]
    Host.asked.clear()
    again = load(tmp_path / "a.parquet", task)
    assert again[0].images[0].decode().size == size
    assert "/1.png" not in Host.asked
    assert "/gone.png" not in Host.asked  # known to be dead in this process
    assert data_digest(PATHVQA, again, "fixed") == data_digest(PATHVQA, samples, "fixed")


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("{host}/a b.png", "no web address: 127.0.0.1:"),
        ("{host}/a\nb.png", "no web address: 127.0.0.1:"),
        ("{host}/\u00e9.png", "no web address: 127.0.0.1:"),
        ("http://[::bad/x", "no web address: [::bad (ValueError)"),
        ("http://user:secret@a b/x", "no web address: a?b (InvalidURL); percent-encode it"),
        ("http:///x", "dead link: no answer from "),
        ("{host}/status.png", "(BadStatusLine)"),
        ("{host}/torn.png", "(IncompleteRead)"),
        ("{host}/headers.png", "(HTTPException)"),
        ("{host}/version.png", "(BadStatusLine)"),
    ],
)
def test_an_address_that_is_none_fails_its_picture_and_no_other(
    host: str, tmp_path: Path, address: str, reason: str
) -> None:
    good, bad = addressed(host)[0], addressed(host)[2]
    rows = [good, {**bad, "image_url": address.format(host=host)}]
    write(tmp_path / "a.parquet", rows, points=pa.list_(pa.float64()))
    samples = load(tmp_path / "a.parquet", registry.task("pixmo_count"))
    assert samples[0].images[0].decode().size == (32, 24)
    with pytest.raises(SampleError) as caught:
        samples[1].images[0].decode()
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value) and "secret" not in str(caught.value)


@pytest.mark.parametrize("other", [picture(9), b"", picture(1)[:-1]])
def test_other_bytes_in_the_download_cache_are_fetched_again(
    host: str, tmp_path: Path, other: bytes
) -> None:
    write(tmp_path / "a.parquet", addressed(host)[:1], points=pa.list_(pa.float64()))
    samples = load(tmp_path / "a.parquet", registry.task("pixmo_count"))
    image = samples[0].images[0]
    cached = tmp_path / "cache" / "images" / image.sha256[:2] / image.sha256
    assert cached.read_bytes() == picture(1)
    cached.write_bytes(other)
    assert image.read() == picture(1) == cached.read_bytes()
    assert Host.asked == ["/1.png"] * 2


def test_a_download_cache_that_is_no_folder_is_named(
    host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a.parquet", addressed(host), points=pa.list_(pa.float64()))
    samples = load(tmp_path / "a.parquet", registry.task("pixmo_count"))
    monkeypatch.setenv("FORGETEVAL_CACHE", "/dev/null")
    Host.asked.clear()
    assert problem_of(tmp_path / "a.parquet", registry.task("pixmo_count")) == (
        "FORGETEVAL_CACHE: got '/dev/null', which cannot hold pictures (Not a directory); "
        "expected a folder to write into; set FORGETEVAL_CACHE to one"
    )
    assert Host.asked == []
    with pytest.raises(SampleError, match="download cache cannot be written: Not a directory"):
        samples[0].images[0].read()


def test_a_subset_fetches_only_its_pictures(host: str, tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", addressed(host), points=pa.list_(pa.float64()))
    load(tmp_path / "a.parquet", registry.task("pixmo_count"), limit=1)
    assert len(set(Host.asked)) == 1


def test_addresses_must_be_web_addresses_with_a_hash(tmp_path: Path) -> None:
    row = addressed("file://")[0]
    write(tmp_path / "a.parquet", [row], points=pa.list_(pa.float64()))
    sample: Sample = load(tmp_path / "a.parquet", registry.task("pixmo_count"))[0]
    with pytest.raises(SampleError, match="not http or https"):
        sample.images[0].decode()
    write(tmp_path / "b.parquet", [{**row, "image_sha256": "x"}], points=pa.list_(pa.float64()))
    message = problem_of(tmp_path / "b.parquet", registry.task("pixmo_count"))
    assert message == "pixmo_count: row 0: column 'image_sha256' is not a SHA-256"


def test_joined_pictures_must_be_there(tmp_path: Path) -> None:
    row = {"id": "1", "imageId": "n9", "question": "Who?", "answer": "man", "fullAnswer": "x"}
    write(tmp_path / "gqa/testdev_balanced_instructions/testdev-0.parquet", [row])
    pictures = tmp_path / "gqa/testdev_balanced_images/testdev-0.parquet"
    write(pictures, [{"id": "n1", "image": cell(1)}])
    gqa = registry.task("gqa")
    assert problem_of(tmp_path / "gqa", gqa) == "gqa: row 0: no image 'n9' in the image table"
    write(pictures, [{"name": "n1", "image": cell(1)}])
    assert problem_of(tmp_path / "gqa", gqa) == "gqa images: no column 'id'; found name, image"


def test_tables_name_lists_of_images(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", [{"image": [cell(1), cell(2)]}], image=pa.list_(IMAGE))
    table = open_path(tmp_path / "a.parquet")
    assert [image.decode().size for image in table.row(0)["image"]] == [(32, 24)] * 2
    (tmp_path / "1.png").write_bytes(picture(1))
    (tmp_path / "a.jsonl").write_text(json.dumps({"images": ["1.png", "1.png"]}))
    assert len(open_path(tmp_path / "a.jsonl").row(0)["images"]) == 2


@pytest.mark.parametrize(
    "state",
    [
        "{",
        "[]",
        '{"_data_files": [{"filename": "../a.arrow"}]}',
        '{"_data_files": [{"filename": 1}]}',
        '{"_data_files": []}',
    ],
)
def test_a_saved_data_set_names_files_beside_its_state(state: str, tmp_path: Path) -> None:
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "state.json").write_text(state)
    with pytest.raises(DataError) as caught:
        open_path(tmp_path / "saved")
    assert str(caught.value) == "saved: state.json does not name data files beside it"


def test_a_line_of_a_csv_file_ends_where_the_line_ends(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,question\n1,one\u2028two\x85three\n2,four\n")
    assert open_path(tmp_path / "a.csv").column("question") == ["one\u2028two\x85three", "four"]
