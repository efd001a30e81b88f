"""The registry: which tasks there are, built in, installed beside us, in a file, or declared.

The only importer of the `tasks` package. That name is not ours alone (a distribution `tasks`
exists, and under `python -m` a folder of the working directory comes first), so the package is
taken from beside this one: under its own name where that is free, else under a private one.

Modules are imported when a task of theirs is asked for.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from string import ascii_uppercase
from types import ModuleType
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from harness.contract import check_golds
from harness.errors import Problem, UserError, did_you_mean
from harness.prompts import LETTER, both, options_block, place_images
from harness.rows import Row, answer_type, chance, columns, images, letter, open_chance, text, texts
from harness.types import BY_PIXELS, Decoding, Prompt, Sample, Source, Task

ENTRY_POINTS = "forgeteval.tasks"
_PACKAGE = Path(__file__).resolve().parent.parent / "tasks"
_PRIVATE_NAME = "_forgeteval_tasks"

_registered: dict[str, Task] = {}
"""Tasks of files named by the user (`register_file`)."""


class UnknownTaskError(UserError):
    """A task name that nothing provides."""


def task(name: str) -> Task:
    """The task of that name. Raises UnknownTaskError with the nearest name."""
    if name in _registered:
        return _registered[name]
    built_in = _package().TASKS
    if name in built_in:
        for found in _tasks_of(_built_in(name), name):
            if found.name == name:
                return found
    known = _all()
    if name not in known:
        hint = did_you_mean(name, list(known)) or f"; known are {', '.join(known)}"
        raise UnknownTaskError("", f"unknown task {name!r}{hint}")
    return known[name]


def names() -> tuple[str, ...]:
    """Names of all tasks: built in, then installed, then of files."""
    return tuple(_all())


def all_tasks() -> tuple[Task, ...]:
    """All tasks in the order of `names`."""
    return tuple(_all().values())


def register_file(path: Path) -> tuple[Task, ...]:
    """Add the tasks that a Python file defines as `TASK` or `TASKS`; returns them.

    The file is run: only name files that you trust. Raises UserError.
    """
    if not path.is_file():
        raise UserError(str(path), "no such file; --tasks expects a Python file with TASK or TASKS")
    spec = importlib.util.spec_from_file_location(f"{_PRIVATE_NAME}_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    # Boundary: the file is the user's own program.
    except Exception as error:
        line = _line_in(error, path)
        raise UserError(f"{path}{line}", f"{type(error).__name__}: {error}") from error
    found = _tasks_of(module, str(path))
    _refuse_duplicates({str(path): found})
    _registered.update({item.name: item for item in found})
    return found


def file_of(name: str) -> str:
    """The Python file that a user named for a task (`register_file`); "" for all others."""
    task = _registered.get(name)
    module = sys.modules.get(getattr(task.sample, "__module__", "")) if task else None
    file = getattr(module, "__file__", None)
    return str(Path(file).absolute()) if file else ""


def code_stamp(task: Task) -> str:
    """Hash (hex) of the program text that turns rows into samples and prompts for this task."""
    digest = hashlib.sha256()
    for function in (task.sample, *task.prompts.values()):
        module = sys.modules.get(getattr(function, "__module__", ""))
        for found in (module, sys.modules["harness.rows"], sys.modules["harness.prompts"]):
            file = getattr(found, "__file__", None)
            if file:
                digest.update(Path(file).read_bytes())
    return digest.hexdigest()


# --- where tasks are found -------------------------------------------------------------------


@cache
def _package() -> ModuleType:
    """Our `tasks` package, whatever else is called so."""
    held = sys.modules.get("tasks")
    if held is None:
        spec = importlib.util.find_spec("tasks")
        if spec is not None and spec.origin == str(_PACKAGE / "__init__.py"):
            held = importlib.import_module("tasks")
    if held is not None and Path(held.__file__ or "").resolve().parent == _PACKAGE:
        return held
    spec = importlib.util.spec_from_file_location(
        _PRIVATE_NAME, _PACKAGE / "__init__.py", submodule_search_locations=[str(_PACKAGE)]
    )
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules[_PRIVATE_NAME] = package
    spec.loader.exec_module(package)
    return package


def _built_in(name: str) -> ModuleType:
    return importlib.import_module(f"{_package().__name__}.{name}")


def _tasks_of(module: ModuleType, where: str) -> tuple[Task, ...]:
    """What a module offers as `TASKS` or `TASK`. Raises UserError."""
    given: Any = getattr(module, "TASKS", None) or getattr(module, "TASK", None)
    found = tuple(given) if isinstance(given, tuple | list) else (given,)
    if not all(isinstance(item, Task) for item in found):
        raise UserError(where, "expected TASK = Task(...) or TASKS = (Task(...), ...)")
    return found


@cache
def _installed() -> Mapping[str, tuple[Task, ...]]:
    """Tasks of other distributions, by entry point."""
    found: dict[str, tuple[Task, ...]] = {}
    for entry in entry_points(group=ENTRY_POINTS):
        where = f"entry point {entry.name} ({entry.value})"
        try:
            offered = entry.load()
        # Boundary: somebody else's package.
        except Exception as error:
            raise UserError(where, f"cannot be loaded: {type(error).__name__}: {error}") from error
        if isinstance(offered, Task):
            found[where] = (offered,)
        elif isinstance(offered, tuple | list) and all(isinstance(t, Task) for t in offered):
            found[where] = tuple(offered)
        else:
            found[where] = _tasks_of(offered, where)
    return found


@cache
def _own() -> Mapping[str, Task]:
    """Built-in tasks by name, in order."""
    offers = {name: _tasks_of(_built_in(name), name) for name in _package().TASKS}
    return {task.name: task for offer in offers.values() for task in offer}


def _all() -> dict[str, Task]:
    own, installed = _own(), _installed()
    _refuse_duplicates(installed)
    others = {task.name: task for offer in installed.values() for task in offer}
    return {**own, **others, **_registered}


def _refuse_duplicates(offers: Mapping[str, tuple[Task, ...]]) -> None:
    """Raises UserError when a new task takes the name of another."""
    taken = dict.fromkeys(_own(), "built in")
    for where, offer in _installed().items():
        if where not in offers:
            taken.update(dict.fromkeys((task.name for task in offer), where))
    problems = []
    for where, offer in offers.items():
        for task in offer:
            if task.name in taken:
                problems.append(Problem(where, f"task {task.name!r} exists ({taken[task.name]})"))
            taken[task.name] = where
    if problems:
        raise UserError("tasks", problems)


def _line_in(error: Exception, path: Path) -> str:
    """`:12` where the error passed through the file."""
    lines = []
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            lines.append(trace.tb_lineno)
        trace = trace.tb_next
    number = lines[-1] if lines else getattr(error, "lineno", None)
    return f":{number}" if number else ""


# --- tasks declared in a manifest ------------------------------------------------------------

InlineScorer = Literal["exact", "choice", "number", "yes_no", "time", "vqa", "anls", "relaxed"]


class InlineColumns(BaseModel):
    """Which column holds what. Those not named are looked for under their usual name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image: str = "image"
    question: str = "question"
    answer: str = "answer"
    """One text or a list of accepted ones; for choices a letter, an index from 0 or the option."""
    id: str | None = None
    group: str | None = None
    choices: str | None = None


class InlineTask(BaseModel):
    """A task over a local file, without code (`suite.tasks` of a manifest)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    """File or folder, relative to the manifest."""
    scorer: InlineScorer
    split: str = ""
    columns: InlineColumns = InlineColumns()
    prompt: str | None = None
    """Text with `{question}` and, for choices, `{choices}`. Without it: the question, then the
    options as lines and the letter instruction."""
    max_new_tokens: Annotated[int, Field(ge=1, le=4096)] = 16

    @field_validator("prompt")
    @classmethod
    def _known_places(cls, value: str | None) -> str | None:
        if value is None:
            return value
        try:
            value.format_map({"question": "", "choices": ""})
        except (KeyError, ValueError, IndexError, AttributeError) as error:
            raise ValueError(
                f"the prompt knows {{question}} and {{choices}}; write other braces twice ({error})"
            ) from None
        if "{question}" not in value:
            raise ValueError("the prompt must contain {question}")
        return value


def inline_task(name: str, spec: InlineTask) -> Task:
    """The task that a manifest declares; its source is the file it names."""
    from harness.scoring import FAMILIES  # all scorers: loaded with the first task that has some

    named = spec.columns
    needed = [named.image, named.question, named.answer]
    needed += [column for column in (named.id, named.group, named.choices) if column]
    if spec.scorer == "choice" and named.choices is None:
        needed.append("choices")
    return Task(
        name=name,
        title=name,
        role="held_out",
        metric=_inline_metric(spec),
        source=Source(hub="", path=spec.path, split=spec.split, columns=tuple(needed)),
        sample=_inline_reader(spec),
        prompts=both(_inline_prompt(spec)),
        scorers=FAMILIES[spec.scorer],
        decoding=Decoding(max_new_tokens=spec.max_new_tokens),
        groups=named.group or "pixels",
    )


def _inline_metric(spec: InlineTask) -> str:
    return "accuracy" if spec.scorer not in ("vqa", "anls") else spec.scorer


def _inline_reader(spec: InlineTask) -> Callable[[Row, int], Sample]:
    from harness.scoring import FAMILIES

    named, scorers, metric = spec.columns, FAMILIES[spec.scorer], _inline_metric(spec)
    is_choice = spec.scorer == "choice"

    def sample(row: Row, index: int) -> Sample:
        options = texts(row, named.choices or "choices") if is_choice else ()
        answers = texts(row, named.answer)
        if is_choice:
            _refuse_unread_list(options, named.choices or "choices")
        if any(answers):
            cell = row[named.answer]
            numbered = isinstance(cell, int | float | list | tuple)
            answers = (
                (_letter_of(cell if numbered else answers, options),)
                if is_choice
                else tuple(_gold(spec.scorer, answer) for answer in answers)
            )
        made = Sample(
            id=text(row, named.id) if named.id else str(row.get("id") or f"{index:06d}"),
            question=text(row, named.question),
            answers=answers,
            images=images(row, named.image),
            choices=options,
            group=text(row, named.group) if named.group else BY_PIXELS,
            answer_type="letter" if is_choice else answer_type(answers[0]),
            chance=chance(options) if is_choice else open_chance(answers[0]),
            doc=columns(row),
        )
        if any(answers):
            check_golds(scorers, metric, made)
        return made

    return sample


def _gold(scorer: InlineScorer, answer: str) -> str:
    """A gold answer in the form its scorer compares with. ValueError where there is none.

    Yes and no, numbers and times are written in more ways than answers under `strict` may be.
    """
    from harness.scoring import clock, number, yes_no

    if scorer == "yes_no":
        word = yes_no.word_of_gold(answer)
        if word is None:
            raise ValueError(f"answer {answer!r} is neither yes nor no (nor true or false)")
        return answer if answer.strip(" .").lower() == word else word
    if scorer == "number":
        value = number.in_digits(answer.strip())
        if value is not None:
            return answer.strip()
        value = number.read(answer)
        digits = "" if value is None else number.written(value)
        if number.in_digits(digits) is None:
            raise ValueError(f"answer {answer!r} is no number; expected one like 3, -4, 3.5, 1,000")
        return digits
    if scorer == "time":
        time = clock.in_digits(answer)
        if time is None:
            raise ValueError(f"answer {answer!r} is no time; expected one like 15:45")
        return time
    return answer


def _letter_of(cell: object, options: tuple[str, ...]) -> str:
    """The letter of a gold choice. ValueError where the cell names no option, or several.

    A whole number is an index from 0. A text is a letter, an option or an index in digits: where
    it may be two of them that mean different options ("A" among the options B and A), it is
    refused.
    """
    cells = list(cell) if isinstance(cell, list | tuple) else [cell]
    golds = dict.fromkeys(_letter_in(c, options) for c in cells if c is not None and str(c).strip())
    if len(golds) != 1:
        raise ValueError(f"answer {cell!r} names {len(golds)} options, expected one")
    return next(iter(golds))


def _letter_in(cell: object, options: tuple[str, ...]) -> str:
    whole = isinstance(cell, int) or (isinstance(cell, float) and cell.is_integer())
    if whole and not isinstance(cell, bool):
        return letter(int(str(cell).removesuffix(".0")), options)
    plain = str(cell).strip()
    letters = ascii_uppercase[: len(options)]
    found = {}
    if len(plain) == 1 and plain.upper() in letters:
        found[plain.upper()] = f"the letter {plain.upper()}"
    for gold, option in zip(letters, options, strict=False):
        if option.strip() == plain:
            found.setdefault(gold, f"the text of option {gold}")
    if plain.isascii() and plain.isdigit() and int(plain) < len(letters):
        found.setdefault(letters[int(plain)], f"the index of option {letters[int(plain)]}")
    if len(found) > 1:
        raise ValueError(
            f"answer {plain!r} is {' and '.join(found.values())}; write the index instead, from 0,"
            " as a whole number without quotes"
        )
    if not found:
        raise ValueError(f"answer {plain!r} is no letter, index or text of {len(options)} options")
    return next(iter(found))


def _refuse_unread_list(options: tuple[str, ...], column: str) -> None:
    """Raises ValueError for a list in a notation that is not JSON, which would be one option."""
    if len(options) == 1 and options[0].lstrip().startswith("["):
        text = f"column {column!r} holds one option, {options[0][:60]!r}"
        raise ValueError(f'{text}; write a list as JSON, such as ["red", "blue"]')


def _inline_prompt(spec: InlineTask) -> Callable[[Sample], Prompt]:
    default = "{question}\n{choices}" + LETTER if spec.scorer == "choice" else "{question}"
    template = spec.prompt or default

    def prompt(sample: Sample) -> Prompt:
        filled = template.format_map(
            {"question": sample.question, "choices": options_block(sample.choices)}
        )
        return place_images(filled, sample)

    return prompt
