"""The record: `study.json` as checked values, what a study consists of where no model is.

The file is data from whoever sent the results folder. Its names become paths, so they must be
plain, and everything that later rooms index is there and of the right type.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from harness.errors import Problem, ResultsError
from harness.lmeval.settings import check_benchmark_name, is_lm_eval
from harness.names import Name, check_name
from harness.registry import InlineTask
from harness.storage.result_files import read_json
from harness.storage.signatures import SCHEMA_VERSION
from harness.types import Kind

FILE = "study.json"
# Problems shown: a damaged record has many, and the cure is the same for all.
SHOWN_PROBLEMS = 5

Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{12,64}$")]
CellId = Annotated[str, Field(pattern=r"^[0-9a-f]{20}$")]
Label = Annotated[str, Field(max_length=400)]


def _check_benchmark(name: str) -> str:
    return check_benchmark_name(name) if is_lm_eval(name) else check_name(name)


BenchmarkName = Annotated[str, AfterValidator(_check_benchmark)]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)


class BenchmarkRow(_Part):
    """A benchmark of the study: its data by content and its number of samples."""

    name: BenchmarkName
    role: Literal["target", "held_out", "probe"]
    data: Hash
    n: Annotated[int, Field(ge=1)]
    metric: Label = ""
    grading: Hash | None = None
    """For lm-eval's tasks: the definition that their grades must be made by."""
    note: Label = ""

    @model_validator(mode="after")
    def _own_metrics_are_named(self) -> BenchmarkRow:
        if is_lm_eval(self.name) and not (self.grading and self.metric):
            raise ValueError("one of lm-eval's tasks needs `metric` and `grading`")
        return self


class StageRow(_Part):
    """A stage, and the cell of each benchmark."""

    strategy: Name
    run: Label
    stage: Annotated[int, Field(ge=0)]
    name: Label
    trained_on: Label | None
    cells: dict[BenchmarkName, CellId]
    diagnostics: dict[Kind, dict[BenchmarkName, CellId]] = {}
    """Diagnostic cells, by kind and benchmark."""


class CostRow(_Part):
    """What one run of a strategy cost to train, mean or largest over its runs."""

    trainable_share: Annotated[float, Field(ge=0, le=1)]
    train_seconds: Annotated[float, Field(ge=0)]
    peak_memory_gb: Annotated[float, Field(ge=0)]
    energy_kwh: Annotated[float, Field(ge=0)] | None = None
    co2_kg: Annotated[float, Field(ge=0)] | None = None


def _has_base(stages: list[StageRow]) -> list[StageRow]:
    if not stages:
        raise ValueError("no stage, not even the base")
    return stages


class Record(_Part):
    """What every reader of a scored study relies on; further keys are kept."""

    study: Name
    base_model: Label
    benchmarks: list[BenchmarkRow]
    tasks: dict[Name, dict[str, Any]]
    components: dict[Name, Label]
    stages: Annotated[list[StageRow], AfterValidator(_has_base)]
    base_again: dict[BenchmarkName, CellId] = {}
    costs: dict[Name, CostRow] = {}
    probe_samples: dict[Kind, Annotated[int, Field(ge=1)]] = {}


def _in_todays_words(record: dict[str, Any]) -> dict[str, Any]:
    """The record with what older programs called otherwise under its name of today."""
    stages = record.get("stages")
    for stage in stages if isinstance(stages, list) else ():
        if isinstance(stage, dict) and "beside" in stage:
            stage.setdefault("diagnostics", stage.pop("beside"))
    return record


def read_record(folder: Path) -> dict[str, Any]:
    """`study.json` of a study's folder, checked; of an imported study only kind and schema.

    Raises ResultsError: missing, not JSON, of another schema, or not as forgeteval writes it.
    """
    record = _in_todays_words(read_json(folder / FILE))
    place = f"{folder.name}/{FILE}"
    schema = record.get("schema")
    if schema != SCHEMA_VERSION:
        newer = isinstance(schema, int) and schema > SCHEMA_VERSION
        cure = "; update forgeteval" if newer else ""
        raise ResultsError(
            place, f"has schema {schema!r}, this program reads {SCHEMA_VERSION}{cure}"
        )
    if record.get("kind") == "imported":
        return record
    if record.get("kind") != "scored":
        got = record.get("kind")
        raise ResultsError(place, f"has kind {got!r}, expected 'scored' or 'imported'")
    try:
        Record.model_validate(record)
        for task in record["tasks"].values():
            InlineTask.model_validate(task)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
        problems = [Problem(".".join(map(str, e["loc"])), e["msg"]) for e in found]
        problems[SHOWN_PROBLEMS:] = []
        cure = "score the study again: cells that are sound are not asked again"
        raise ResultsError(place, [*problems, Problem("cure", cure)]) from None
    return record
