"""Task folders: our tasks as files that `lm_eval --include_path` and lmms-eval read.

A YAML file per task names functions of one small Python module, which calls `harness.export.
adapters`: the other program runs the model, everything else is ours. forgeteval must be installed
where the folder is used.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from harness import registry
from harness.errors import DataError, UserError
from harness.export.adapters import SCORERS, Place, adapter, key_of, task_of
from harness.lmeval.settings import is_lm_eval
from harness.manifest import Manifest
from harness.storage.result_files import write_atomically
from harness.types import Task

Program = Literal["lm-eval", "lmms-eval"]
MODULE = "forgeteval_tasks"
SPLIT = "test"
# A task's own version in other programs' logs; raised when an export would score otherwise.
VERSION = 1.0

LM_EVAL_CODE = '''"""Made by `forgeteval export lm-eval`: our tasks for lm-eval."""

from harness.export.adapters import grade, lm_eval_data, pictures


def data(forgeteval, **_):
    return lm_eval_data("test", forgeteval)


__all__ = ["data", "grade", "pictures"]
'''
LMMS_EVAL_CODE = '''"""Made by `forgeteval export lmms-eval`: our tasks for lmms-eval."""

from harness.export import adapters


def visuals(doc):
    return adapters.pictures(doc)


def text(doc, lmms_eval_specific_kwargs=None):
    return doc["text"]


def grade(doc, results):
    return adapters.grade(doc, results)
'''


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written."""

    files: tuple[Path, ...]
    tasks: tuple[str, ...]
    notes: tuple[str, ...] = ()
    """What the other program's format cannot say."""


def places(manifest: Manifest | None, folder: Path, names: Sequence[str]) -> list[Place]:
    """The tasks to export: those of a manifest with its data, or of the registry; `names` picks.

    Raises UserError for a name that is not among them.
    """
    found = {place.task: place for place in _places(manifest, folder)}
    lost = [name for name in names if name not in found]
    if lost:
        raise UserError("TASK", f"no task {lost[0]!r} to export; there are {', '.join(found)}")
    return [found[name] for name in names] if names else list(found.values())


def _places(manifest: Manifest | None, folder: Path) -> Iterator[Place]:
    base = str(folder.absolute())
    if manifest is None:
        yield from (Place(name, base, file=registry.file_of(name)) for name in registry.names())
        return
    suite = manifest.suite
    for name in suite.benchmarks():
        if is_lm_eval(name):
            continue  # lm-eval has it
        override, inline = suite.sources.get(name), suite.tasks.get(name)
        given = override.model_dump(exclude_none=True) if override else {}
        yield Place(
            task=name,
            base=base,
            source=tuple(sorted(given.items())),
            inline=inline.model_dump_json() if inline else "",
            file="" if inline else registry.file_of(name),
            limit=suite.limit or 0,
            seed=suite.seed,
            profile=suite.profile,
        )


def write(program: Program, chosen: Sequence[Place], target: Path) -> Exported:
    """Writes the folder `target` (made if needed) for `program`.

    lmms-eval cannot be handed rows by a function, so its folder holds the prompts of every task;
    the pictures stay where they are. Raises DataError when they cannot be read.
    """
    code = LM_EVAL_CODE if program == "lm-eval" else LMMS_EVAL_CODE
    files = {target / f"{MODULE}.py": code.encode()}
    notes: list[str] = []
    for place in chosen:
        task = task_of(place)
        if place.profile not in task.prompts:
            raise DataError(task.name, f"has no prompt profile {place.profile!r}")
        if program == "lm-eval":
            written = _lm_eval_task(place, task)
        else:
            rows = target / "data" / f"forgeteval_{task.name}.jsonl"
            lines, moved = _rows(place)
            files[rows] = lines
            written = _lmms_eval_task(task, rows)
            if moved:
                notes.append(f"{task.name}: {moved} prompts with pictures inside the text; "
                             "lmms-eval shows pictures first")  # fmt: skip
        files[target / f"forgeteval_{task.name}.yaml"] = _yaml(written, program)
        if task.headline.unit or task.headline.macro:
            notes.append(f"{task.name}: {program} gives the plain mean of samples; the headline "
                         "here joins or weighs them")  # fmt: skip
    for file, data in files.items():
        write_atomically(file, data)
    return Exported(tuple(files), tuple(place.task for place in chosen), tuple(notes))


def _lm_eval_task(place: Place, task: Task) -> dict[str, Any]:
    given = {name: getattr(place, name) for name in place.__dataclass_fields__}
    kept = {name: value for name, value in given.items() if value and name != "source"}
    source = dict(place.source)
    return {
        "task": f"forgeteval_{task.name}",
        "custom_dataset": f"!function {MODULE}.data",
        # Under one key: lm-eval adds its model's arguments to these.
        "dataset_kwargs": {"forgeteval": kept | ({"source": source} if source else {})},
        "test_split": SPLIT,
        "output_type": "generate_until",
        "doc_to_image": f"!function {MODULE}.pictures",
        "doc_to_text": "text",
        "doc_to_target": "answer",
        **_judged(task, "max_gen_toks"),
    }


def _lmms_eval_task(task: Task, rows: Path) -> dict[str, Any]:
    return {
        "task": f"forgeteval_{task.name}",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {SPLIT: str(rows.absolute())}},
        "test_split": SPLIT,
        "output_type": "generate_until",
        "doc_to_visual": f"!function {MODULE}.visuals",
        "doc_to_text": f"!function {MODULE}.text",
        "doc_to_target": "answer",
        **_judged(task, "max_new_tokens"),
    }


def _judged(task: Task, limit: str) -> dict[str, Any]:
    """How answers are generated and graded."""
    return {
        "process_results": f"!function {MODULE}.grade",
        "generation_kwargs": {
            "until": list(task.decoding.stop),
            limit: task.decoding.max_new_tokens,
            "do_sample": False,
        },
        "metric_list": [
            {"metric": name, "aggregation": "mean", "higher_is_better": True}
            for name in SCORERS
            if name in task.scorers
        ],
        "metadata": {"version": VERSION},
    }


def _rows(place: Place) -> tuple[bytes, int]:
    """The rows of a task as JSON lines, and how many have a picture that is not in front."""
    opened = adapter(place)
    lines, moved = [], 0
    for row, sample in zip(opened.rows(), opened.samples, strict=True):
        parts = opened.parts(sample)
        words = next((i for i, part in enumerate(parts) if isinstance(part, str)), len(parts))
        inside = any(isinstance(part, int) for part in parts[words:])
        moved += inside
        text = row["text"] if inside else "".join(p for p in parts if isinstance(p, str))
        lines.append(json.dumps({**row, "text": text, **key_of(place)}, sort_keys=True))
    return "".join(line + "\n" for line in lines).encode(), moved


def _yaml(task: Mapping[str, Any], program: Program) -> bytes:
    """The task as YAML with functions by tag, which no dump writes."""
    text = yaml.safe_dump(dict(task), sort_keys=False, allow_unicode=True)
    for line in [line for line in text.splitlines() if "'!function " in line]:
        text = text.replace(line, line.replace("'", ""))
    use = "lm_eval --include_path" if program == "lm-eval" else "lmms-eval --include_path"
    return (
        f"# Made by forgeteval: {use} THIS_FOLDER; forgeteval must be installed.\n{text}".encode()
    )
