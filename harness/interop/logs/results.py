"""A results file: what an evaluator says of one of its runs, apart from the samples.

lm-eval's and lmms-eval's files have the same shape. Of all they hold three things are needed: the
metrics of each task with the evaluator's own mean, how many documents there were, and the settings
that must be equal before two runs may be compared.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.interop.logs.folders import Program

MAX_BYTES = 64_000_000
# What of a task's configuration makes prompts or scores; the rest may differ (paths, model names).
_CONFIG_KEYS = (
    "dataset_name", "test_split", "validation_split", "description", "doc_to_text",
    "target_delimiter", "fewshot_delimiter", "num_fewshot", "output_type", "generation_kwargs",
    "repeats", "filter_list", "lmms_eval_specific_kwargs", "model_specific_prompt_kwargs",
)  # fmt: skip
_RUN_KEYS = ("system_instruction_sha", "chat_template_sha", "fewshot_as_multiturn")
# The same of a run's own options.
_OPTION_KEYS = ("model_dtype", "gen_kwargs", "fewshot_seed")
# Functions are written with their place in memory, which changes from run to run.
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_SHOWN = 60


class BrokenLogError(Exception):
    """A log file that cannot be used; the message says why in one line."""


@dataclass(frozen=True, slots=True)
class TaskResults:
    """What a results file says of one task."""

    aggregates: Mapping[tuple[str, str], float]
    """(metric, filter) -> the evaluator's own figure, on its own scale; NaN where it gave none."""
    lower_is_better: frozenset[str]
    """Metrics that the evaluator says are better when lower."""
    n_documents: int | None
    """Documents that were asked; None = not said."""
    version: str
    settings: Mapping[str, str] = field(default_factory=dict)
    """What prompts and scores depend on, as text."""

    def filters(self) -> tuple[str, ...]:
        """The task's filters, in the order in which the evaluator applied them."""
        return tuple(dict.fromkeys(name for _, name in self.aggregates))


@dataclass(frozen=True, slots=True)
class Results:
    """What a results file says of its run."""

    evaluator: str
    """Program and version, for example `lm-eval 0.4.13`; the version is `?` if it is not said."""
    engine: str
    """The model class that answered: `hf-multimodal`, `vllm`, ...; "" = not said."""
    library: str
    """The library behind it, for example `transformers 5.16.1`; "" = not said."""
    tasks: Mapping[str, TaskResults]


def read_results(file: Path, program: Program) -> Results:
    """The results file. Raises BrokenLogError."""
    record = _read(file)
    found = record.get("results")
    if not isinstance(found, dict):
        raise BrokenLogError("no object `results` in it")
    key = "lm_eval_version" if program == "lm-eval" else "lmms_eval_version"
    version = record.get(key)
    # lmms-eval knows its version only where it runs from a git checkout.
    known = bool(version) and "unknown" not in str(version)
    library = record.get("transformers_version")
    engine = record.get("model_source") or _mapping(record.get("config")).get("model")
    return Results(
        evaluator=f"{program} {_short(version) if known else '?'}",
        engine=_short(engine) if isinstance(engine, str) else "",
        library=f"transformers {_short(library)}" if isinstance(library, str) else "",
        tasks={
            str(task): _task(record, str(task), values)
            for task, values in found.items()
            if isinstance(values, dict)
        },
    )


def _read(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > MAX_BYTES:
            raise BrokenLogError(f"larger than {MAX_BYTES:,} bytes")
        record = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise BrokenLogError(f"cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise BrokenLogError(f"not UTF-8 text (byte {error.start})") from None
    except json.JSONDecodeError as error:
        text = f"not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        raise BrokenLogError(text) from None
    except (ValueError, RecursionError):
        raise BrokenLogError("no JSON that can be read: a number or nesting too large") from None
    if not isinstance(record, dict):
        raise BrokenLogError(f"got a JSON {type(record).__name__}, expected an object")
    return record


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _task(record: Mapping[str, Any], task: str, values: Mapping[str, Any]) -> TaskResults:
    config = _mapping(_mapping(record.get("configs")).get(task))
    counts = _mapping(_mapping(record.get("n-samples")).get(task))
    effective = counts.get("effective", counts.get("original"))
    higher = _mapping(_mapping(record.get("higher_is_better")).get(task))
    shots = _mapping(record.get("n-shot")).get(task)
    settings = {key: config[key] for key in _CONFIG_KEYS if key in config}
    settings |= {key: record[key] for key in _RUN_KEYS if record.get(key) is not None}
    options = _mapping(record.get("config"))
    settings |= {key: options[key] for key in _OPTION_KEYS if options.get(key) is not None}
    if shots is not None:
        settings["num_fewshot"] = shots
    return TaskResults(
        aggregates=_aggregates(values),
        lower_is_better=frozenset(str(name) for name, better in higher.items() if better is False),
        n_documents=effective if type(effective) is int and effective >= 0 else None,
        version=_short(_mapping(record.get("versions")).get(task, "?")),
        settings={key: canonical(value) for key, value in settings.items()},
    )


def _aggregates(values: Mapping[str, Any]) -> dict[tuple[str, str], float]:
    """`"acc_norm,none": 0.5` -> `("acc_norm", "none"): 0.5`; standard errors and the like left out.

    >>> _aggregates({"alias": "x", "acc,none": 0.5, "acc_stderr,none": 0.1, "f1": "N/A"})
    {('acc', 'none'): 0.5, ('f1', 'none'): nan}
    """
    found = {}
    for key, value in values.items():
        metric, _, name = str(key).partition(",")
        metric = metric.strip()
        known = metric and metric not in ("alias", "sample_len", "sample_count", "name")
        if not known or metric.endswith(("_stderr", "_stderr_clt", "_stderr_clustered")):
            continue
        found[metric, name.strip() or "none"] = _finite(value)
    return found


def _finite(value: object) -> float:
    """A number as such; NaN for anything else."""
    try:
        number = float(value) if isinstance(value, int | float) else math.nan
    except OverflowError:
        return math.nan
    return number if math.isfinite(number) else math.nan


def canonical(value: object) -> str:
    """A JSON value as text, the same for equal values; without places in memory."""
    try:
        text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    except (RecursionError, ValueError):
        text = "nested too deeply to be compared"
    return _ADDRESS.sub("", text)


def _short(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
