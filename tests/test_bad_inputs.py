"""Bad inputs and what is said of each: checkpoints, data and results that no sane program wrote.

Manifests have their table in `test_manifest.py`, safetensors files in `test_checkpoints.py`,
score files in `test_import_scores.py`; the last test counts all tables together.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from faults import CHECKPOINTS
from PIL import Image
from replay import ReplayEngine, write_checkpoint
from test_checkpoints import BAD_FILES
from test_manifest import MISTAKES
from test_sources_images import bomb

from harness import engines, integrity, study
from harness.data.images import FileImage, decode
from harness.errors import ResultsError, SampleError, UserError
from harness.report.live import Quiet
from harness.scoring.study import read_scores
from harness.study import Options
from harness.types import Prediction
from tests.make_fixtures import picture

MANIFEST = """
study: bad
base: ckpt/base
suite:
  targets: [colors]
  tasks: {colors: {path: data/colors.jsonl, scorer: exact}}
strategies:
  s: {stages: [{trained_on: colors, path: ckpt/s1}]}
"""
Harm = Callable[[Path], object]


def row(number: int, **changes: object) -> dict[str, object]:
    return {"id": str(number), "image": "p.png", "question": "What?", "answer": "red"} | changes


def write_rows(place: Path, *rows: dict[str, object]) -> None:
    text = "".join(json.dumps(item) + "\n" for item in rows)
    (place / "data" / "colors.jsonl").write_text(text)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for number, name in enumerate(CHECKPOINTS[:2]):
        write_checkpoint(tmp_path / "ckpt" / name, number)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "p.png").write_bytes(picture(1))
    write_rows(tmp_path, row(0), row(1), row(2))
    (tmp_path / "study.yaml").write_text(MANIFEST)
    return tmp_path


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> ReplayEngine:
    made = ReplayEngine(lambda checkpoint, request: "red")
    monkeypatch.setattr(engines, "create", lambda kind, options: made)
    return made


def open_bad(place: Path):
    return study.open_study(place / "study.yaml", Options(results=place / "results"))


def weights(place: Path, stage: str = "s1") -> Path:
    return place / "ckpt" / stage / "model.safetensors"


def shard(place: Path, weight_map: dict[str, str], *, files: tuple[str, ...] = ()) -> None:
    data = weights(place).read_bytes()
    weights(place).unlink()
    for name in files:
        (weights(place).parent / name).write_bytes(data)
    index = weights(place).with_suffix(".safetensors.index.json")
    index.write_text(json.dumps({"weight_map": weight_map}))


def as_adapter(place: Path, stage: str, weights_name: str = "") -> None:
    weights(place, stage).unlink()
    folder = weights(place, stage).parent
    (folder / "adapter_config.json").write_text('{"r": 8}')
    if weights_name:
        (folder / weights_name).write_bytes(b"\x80\x04")


def cut(file: Path, n: int) -> None:
    file.write_bytes(file.read_bytes()[:-n])


# what is wrong -> (how it comes about, what is said; the rest of the study goes on)
CHECKPOINT_FAULTS: dict[str, tuple[Harm, str]] = {
    "base without tokenizer": (
        lambda p: (p / "ckpt/base/tokenizer.json").unlink(), "no tokenizer and processor here",
    ),
    "base without processor": (
        lambda p: (p / "ckpt/base/processor_config.json").unlink(),
        "copy them from the base model",
    ),
    "adapter as base": (
        lambda p: as_adapter(p, "base"),
        "a peft adapter is no base; give the model it was trained on",
    ),
    "adapter without weights": (
        lambda p: as_adapter(p, "s1"), "no *.safetensors here; the folder holds adapter_config.json",
    ),
    "pickled adapter": (
        lambda p: as_adapter(p, "s1", "adapter_model.bin"), "only adapter_model.bin found: pickled weights run code",
    ),
    "pickle only": (
        lambda p: weights(p).rename(weights(p).with_name("pytorch_model.bin")),
        "only pytorch_model.bin found: pickled weights run code when they are loaded; convert them",
    ),
    "no weights": (lambda p: weights(p).unlink(), "the folder holds config.json, processor_config.json"),
    "truncated weights": (lambda p: cut(weights(p), 3), "model.safetensors: tensor w ends at byte"),
    "cut in the header": (lambda p: cut(weights(p), 30), "it is torn"),
    "header of 10 TB": (
        lambda p: weights(p).write_bytes((10**13).to_bytes(8, "little") + b"{}"),
        "the header claims 10,000,000,000,000 bytes, the file has 10; it is torn",
    ),
    "missing shard": (
        lambda p: shard(p, {"w": "a.safetensors", "v": "b.safetensors"}, files=("a.safetensors",)),
        "the index names b.safetensors, which the folder lacks; copy the missing shards",
    ),
    "index of other tensors": (
        lambda p: shard(p, {"v": "a.safetensors"}, files=("a.safetensors",)),
        "1 tensors are in no shard, first v",
    ),
    "tensor in two shards": (
        lambda p: shard(p, {"w": "a.safetensors", "v": "b.safetensors"}, files=("a.safetensors", "b.safetensors")),
        "tensor w is also in a.safetensors",
    ),
    "shard elsewhere": (
        lambda p: shard(p, {"w": "../base/model.safetensors"}), "is not a plain file name",
    ),
    "index is no index": (
        lambda p: shard(p, "w"),  # type: ignore[arg-type]
        "not a shard index",
    ),
    "unknown type": (
        lambda p: weights(p).write_bytes(weights(p).read_bytes().replace(b"U8", b"Q7")),
        "tensor w has the unknown type Q7",
    ),
    "shape beyond its bytes": (
        lambda p: weights(p).write_bytes(weights(p).read_bytes().replace(b"[8]", b"[9]")),
        "tensor w claims 9 bytes at an extent of 8",
    ),
    "no configuration": (lambda p: (p / "ckpt/s1/config.json").unlink(), "config.json is missing"),
    "broken configuration": (
        lambda p: (p / "ckpt/s1/config.json").write_text("{"), "config.json cannot be read",
    ),
    "configuration is a list": (
        lambda p: (p / "ckpt/s1/config.json").write_text("[]"), "config.json holds no JSON object",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", CHECKPOINT_FAULTS)
def test_a_bad_checkpoint_is_named_and_the_rest_is_scored(place: Path, engine, what: str):
    harm, expected = CHECKPOINT_FAULTS[what]
    harm(place)
    outcome = study.score(open_bad(place), Quiet())
    assert expected in outcome.failures[0].why
    assert outcome.exit_code == 6
    # A stage that cannot be read costs its own cell only.
    assert outcome.n_sealed == 1


# what is wrong -> (rows of the file or its bytes, what is said)
DATA_FAULTS: dict[str, tuple[list[dict[str, object]] | bytes, str]] = {
    "no file": (b"", "no such file or folder; its folder holds p.png"),
    "empty file": (b"\n", "colors: the source has no rows"),
    "not JSON": (b'{"id": "1"}\n{"id', "colors.jsonl: line 2: not JSON"),
    "a list per line": (b"[1]\n", "record 0 is list, not an object"),
    "not UTF-8": (b'{"question": "caf\xe9"}\n', "colors.jsonl: not UTF-8 at byte 17"),
    "no answer": ([row(0), row(1, answer="")], "colors: row 1: has no answer"),
    "answer of blanks": ([row(0), row(1, answer=" \t")], "colors: row 1: has no answer"),
    "no question": ([row(0, question=None)], "row 0: has no question"),
    "no picture": ([row(0, image=None)], "row 0: has no image"),
    "id twice": ([row(0), row(0)], "row 1: has the id '0' of row 0"),
    "column renamed": ([{"id": "0", "image": "p.png", "question": "?", "anwser": "x"}], "did you mean 'anwser'?"),
    "picture outside": ([row(0, image="../../etc/passwd")], "'../../etc/passwd' leads out of the data folder"),
    "picture by absolute path": ([row(0, image="/etc/passwd")], "leads out of the data folder"),
    "picture is a number": ([row(0, image=7)], "an image is given as int, expected a path"),
    "half a character": ([row(0, question="\ud800")], "holds half a character (a lone surrogate"),
}  # fmt: skip


@pytest.mark.parametrize("what", DATA_FAULTS)
def test_bad_data_is_named_and_the_study_goes_on(place: Path, engine, what: str):
    content, expected = DATA_FAULTS[what]
    file = place / "data" / "colors.jsonl"
    if isinstance(content, list):
        write_rows(place, *content)
    elif content:
        file.write_bytes(content)
    else:
        file.unlink()
    outcome = study.score(open_bad(place), Quiet())
    assert expected in " ".join(failure.why for failure in outcome.failures)
    assert outcome.exit_code == 6 and outcome.n_sealed == 0


def jpeg() -> bytes:
    out = BytesIO()
    Image.open(BytesIO(picture(5))).resize((320, 240)).save(out, "JPEG", quality=95)
    return out.getvalue()


def harmed(data: bytes, at: int, n: int) -> bytes:
    return data[:at] + bytes(byte ^ 0x5A for byte in data[at : at + n]) + data[at + n :]


# what is wrong -> (encoded bytes, the sample's reason)
PICTURE_FAULTS: dict[str, tuple[bytes, str]] = {
    "zero bytes": (b"", "not an image in one of the formats PNG, JPEG, WEBP"),
    "zero pixels": (bomb(0, 0), "not an image in one of"),
    "truncated PNG": (picture(5)[:90], "broken image"),
    "corrupt PNG": (harmed(picture(5), 45, 30), "broken image"),
    "truncated JPEG": (jpeg()[:3000], "broken image: image file is truncated"),
    "corrupt JPEG": (harmed(jpeg(), 2, 200), "not an image in one of the formats"),
    "decompression bomb": (bomb(50_000, 40_000), "image"),
    "just too large": (bomb(11_000, 10_000), "image of 11000 x 10000 pixels; the limit is 100,000,000"),
    "a program (EPS)": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image in one of"),
    "a web page": (b"<html>404</html>", "not an image in one of"),
    "a vector graphic": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image in one of"),
}  # fmt: skip


class SeeingEngine(ReplayEngine):
    """Decodes every picture, as the real engines do."""

    def __init__(self) -> None:
        super().__init__(lambda checkpoint, request: "red")

    def generate(self, requests):
        for request in requests:
            try:
                sizes = [image.decode().size for image in request.images]
            except SampleError as error:
                yield Prediction(request.sample_id, status="failed", reason=str(error))
            else:
                yield Prediction(request.sample_id, text=f"{sizes}", finish_reason="stop")


def test_a_bad_picture_fails_its_sample_and_no_other(place: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(engines, "create", lambda kind, options: SeeingEngine())
    rows = [row(0)]
    for number, (data, _) in enumerate(PICTURE_FAULTS.values(), start=1):
        (place / "data" / f"{number}.png").write_bytes(data)
        rows.append(row(number, image=f"{number}.png"))
    write_rows(place, *rows, row(99, image="gone.png"))
    outcome = study.score(open_bad(place), Quiet())
    assert outcome.failures == [] and outcome.n_failed == 2 * (len(PICTURE_FAULTS) + 1)
    opened = open_bad(place)
    found = opened.store.read_cell("colors", opened.plan.cells[0].id)[0].to_pylist()
    assert (
        found[0]["status"] == "ok"
        and found[-1]["reason"] == "image file 'gone.png': No such file or directory"
    )
    for row_, (_, reason) in zip(found[1:], PICTURE_FAULTS.values(), strict=False):
        assert (row_["status"], row_["text"]) == ("failed", "") and reason in row_["reason"]
    scores = read_scores(place / "results" / "bad").benchmarks["colors"]
    assert scores.status.tolist()[1:] == [scores.status.tolist()[1]] * (len(PICTURE_FAULTS) + 1)


@pytest.mark.parametrize("mode", ["CMYK", "I;16", "gif", "exif", "LA", "P"])
def test_odd_but_sound_pictures_are_used(mode: str):
    size = (24, 32) if mode == "exif" else (32, 24)
    assert decode(picture(5, mode)).size == size


def test_a_picture_that_is_a_folder_is_a_reason(tmp_path: Path):
    with pytest.raises(SampleError, match="Is a directory"):
        FileImage(str(tmp_path), "folder.png").decode()


def cells(place: Path) -> list[Path]:
    return sorted((place / "results/bad/cells").rglob("*.parquet"))


def record(place: Path, **changes: object) -> None:
    file = place / "results/bad/study.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def stages(place: Path, **changes: object) -> None:
    found = json.loads((place / "results/bad/study.json").read_text())["stages"]
    record(place, stages=[found[0] | changes, *found[1:]])


def flip(place: Path) -> None:
    # In the first data page: a flip in the footer may leave all values alone.
    data = bytearray(cells(place)[0].read_bytes())
    data[60] ^= 0xFF
    cells(place)[0].write_bytes(data)


def rewrite(file: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    pq.write_table(change(pq.read_table(file)), file)


def metadata(file: Path, **changes: object) -> None:
    def change(table: pa.Table) -> pa.Table:
        found = json.loads(table.schema.metadata[b"forgeteval"]) | changes
        return table.replace_schema_metadata({b"forgeteval": json.dumps(found).encode()})

    rewrite(file, change)


def samples(place: Path) -> Path:
    return next((place / "results/bad/samples").glob("*.parquet"))


STUDY_JSON = "results/bad/study.json"
# what is wrong -> (how it comes about, what is said)
RESULT_FAULTS: dict[str, tuple[Harm, str]] = {
    "flipped byte": (flip, "cannot be read"),
    "truncated cell": (lambda p: cut(cells(p)[0], 40), "cannot be read"),
    "empty cell": (lambda p: cells(p)[0].write_bytes(b""), "cannot be read"),
    "newer cell": (lambda p: metadata(cells(p)[0], schema=2), "has schema 2, this program reads 1; update forgeteval"),
    "foreign table": (
        lambda p: pq.write_table(pa.table({"a": [1]}), cells(p)[0]), "was not written by forgeteval, or is torn",
    ),
    "foreign bytes": (lambda p: cells(p)[0].write_text("notes"), "cannot be read"),
    "answers changed": (
        lambda p: rewrite(cells(p)[0], lambda t: t.set_column(2, "text", pa.array(["no"] * 3))),
        "its content does not match its checksum; delete this file and score again",
    ),
    "another cell's bytes": (
        lambda p: shutil.copy(cells(p)[0], cells(p)[1]), "its signature belongs to another cell; delete",
    ),
    "counts changed": (lambda p: metadata(cells(p)[0], n_failed=1), "its counts do not match its rows"),
    "columns gone": (
        lambda p: rewrite(cells(p)[0], lambda t: t.drop_columns(["text"])), "has other columns than forgeteval writes",
    ),
    "metadata is a list": (
        lambda p: rewrite(cells(p)[0], lambda t: t.replace_schema_metadata({b"forgeteval": b"[1]"})),
        "was not written by forgeteval, or is torn",
    ),
    "samples gone": (lambda p: samples(p).unlink(), "is missing"),
    "samples without values": (
        lambda p: rewrite(samples(p), lambda t: t.set_column(3, t.schema.field(3), pa.array([None] * 3, t.schema.field(3).type))),
        "was not written by forgeteval, or is torn",
    ),
    "no record": (lambda p: (p / STUDY_JSON).unlink(), "study.json is missing"),
    "empty record": (lambda p: (p / STUDY_JSON).write_text(""), "study.json: cannot be read"),
    "record is a list": (lambda p: (p / STUDY_JSON).write_text("[]"), "study.json: holds no JSON object"),
    "endless record": (lambda p: (p / STUDY_JSON).write_text("[" * 200_000), "study.json: cannot be read"),
    "newer record": (lambda p: record(p, schema=7), "study.json: has schema 7, this program reads 1; update forgeteval"),
    "record of another kind": (lambda p: record(p, kind="x"), "has kind 'x', expected 'scored' or 'imported'"),
    "record without stages": (lambda p: record(p, stages=[]), "no stage, not even the base"),
    "stages are words": (lambda p: record(p, stages="all"), "stages: Input should be a valid list"),
    "benchmark is a path": (
        lambda p: record(p, benchmarks=[{"name": "../../x", "role": "target", "data": "a" * 64, "n": 1}]),
        "benchmarks.0.name: Value error, got '../../x', expected a plain name",
    ),
    "data is a path": (
        lambda p: record(p, benchmarks=[{"name": "x", "role": "target", "data": "../x", "n": 1}]),
        "benchmarks.0.data: String should match pattern",
    ),
    "cell is a path": (
        lambda p: stages(p, cells={"colors": "../../../x"}), "stages.0.cells.colors: String should match pattern",
    ),
    "stage number is a word": (lambda p: stages(p, stage="one"), "stages.0.stage: Input should be a valid integer"),
    "task of another program": (lambda p: record(p, tasks={"colors": {"code": "x"}}), "Field required"),
}  # fmt: skip


@pytest.mark.parametrize("what", RESULT_FAULTS)
def test_bad_results_are_refused_by_name(place: Path, engine, what: str):
    study.score(open_bad(place), Quiet())
    harm, expected = RESULT_FAULTS[what]
    harm(place)
    folder = place / "results" / "bad"
    with pytest.raises(ResultsError) as caught:
        read_scores(folder)
    assert expected in str(caught.value)
    assert str(place) not in str(caught.value)
    try:
        kinds = {finding.kind for finding in integrity.check(folder)}
    except UserError:
        return
    assert kinds & {"damaged", "missing"}


def test_code_from_a_checkpoint_is_run_only_where_the_manifest_says_so(place: Path, engine):
    def trusted() -> list[object]:
        outcome = study.score(open_bad(place), Quiet())
        assert outcome.exit_code == 0
        record = json.loads((place / STUDY_JSON).read_text())
        return [stage.get("trust_remote_code") for stage in record["stages"]]

    assert trusted() == [None, None] and not engine.current.trust_remote_code
    text = MANIFEST.replace("path: ckpt/s1", "path: ckpt/s1, trust_remote_code: true")
    (place / "study.yaml").write_text(text)
    assert trusted() == [None, True]


@pytest.mark.slow  # transformers takes seconds to import
@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__init__.__globals__ }}",
        "{{ messages.append(1) }}",
        "{% for i in range(10 ** 12) %}x{% endfor %}",
        "{% include '/etc/passwd' %}",
    ],
)
def test_a_template_cannot_reach_python(template: str):
    from jinja2.exceptions import TemplateError
    from transformers.utils.chat_template_utils import render_jinja_template

    question = [[{"role": "user", "content": "?"}]]
    with pytest.raises((TemplateError, OverflowError, TypeError)):
        render_jinja_template(conversations=question, chat_template=template)


def test_at_least_sixty_bad_inputs_have_messages_of_their_own():
    own = [CHECKPOINT_FAULTS, DATA_FAULTS, PICTURE_FAULTS, RESULT_FAULTS]
    tables = [*own, MISTAKES, BAD_FILES]
    messages = {message for table in tables for _, message in table.values()}
    assert len(messages) >= 110
    assert len({message for table in own for _, message in table.values()}) >= 60
