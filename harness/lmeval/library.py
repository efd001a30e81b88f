"""The library: lm-eval's tasks loaded and their requests built, as its own command does it.

The only module that imports lm-eval, and only when something is owed. Tasks may draw examples
and shuffle options by Python's and numpy's global generators, so each is loaded and built after
the seeds that `lm_eval` sets, and the generators are put back afterwards.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import DataError, did_you_mean, first_line
from harness.lmeval.settings import PREFIX, LmEvalSettings

# `lm_eval.simple_evaluate`'s own: seeds of `random` and of numpy.
PYTHON_SEED, NUMPY_SEED = 0, 1234
# Kinds of index entries that are tasks; groups and tags are the others.
LEAVES = ("TASK", "PY_TASK")
# Documents that metrics are tried on before a model runs, spread over the task.
TRIAL_DOCUMENTS = 8
LONG_ANSWER = "The answer is 42, and more can be said of it.\n" * 40
INSTALL = "pip install 'forgeteval[lm-eval]'"


class Chat(str):
    """A chat in place of a prompt: which template it gets is known when a checkpoint is."""

    __slots__ = ("turns",)
    turns: tuple[tuple[str, str], ...]
    """(role, text) in order."""


@dataclass(frozen=True, slots=True)
class LoadedTask:
    """One of lm-eval's tasks, its settings applied, its requests built."""

    name: str
    """Its own name, without our prefix."""
    task: Any
    folder: Path | None
    """Where its file lies; None = defined in Python alone."""

    @property
    def instances(self) -> list[Any]:
        """lm-eval's requests: several for a document whose options are compared."""
        found: list[Any] = self.task.instances
        return found


def installed_version() -> str:
    """lm-eval's version. Raises DataError with the command that installs it."""
    try:
        return version("lm_eval")
    except PackageNotFoundError:
        raise DataError("lm_eval", f"lm-eval is not installed; {INSTALL}") from None


class Library:
    """lm-eval's index of tasks, read once: that of the include paths, and the whole.

    Reading the whole takes 15 seconds, so a task of an include path is looked for there first. It
    would be found there anyway: lm-eval lets include paths override its own.
    """

    def __init__(self, settings: LmEvalSettings, base: Path):
        self._settings = settings
        self._folders = settings.folders(base)
        self._indexes: dict[bool, Any] = {}
        self._loaded: dict[str, dict[str, Any]] = {}
        self._built: dict[tuple[str, str], LoadedTask] = {}

    def members(self, asked: str) -> list[str]:
        """The tasks that a name stands for: itself, or all tasks of a group or tag.

        Raises DataError for a name that lm-eval does not know, with the nearest.
        """
        manager = self._knowing(asked)
        index = manager.task_index
        if asked not in index:
            near = did_you_mean(asked, list(index))
            raise DataError(PREFIX + asked, f"lm-eval has no task or group of that name{near}")
        return [asked] if index[asked].kind.name in LEAVES else list(self._load(asked))

    def task(self, name: str, asked: str, limit: int | None) -> LoadedTask:
        """The task with its requests built. Raises DataError for what lm-eval says of it."""
        key = (name, asked)
        if key not in self._built:
            # A member of a group takes settings from it, so it is loaded by the name asked for.
            task = self._load(asked).get(name)
            if task is None:
                raise DataError(PREFIX + name, f"lm-eval's {asked!r} has no such task any more")
            with quiet(name), _seeded():
                self._built[key] = self._build(name, asked, task, limit)
        return self._built[key]

    def _load(self, asked: str) -> dict[str, Any]:
        """All tasks that a name stands for, by name; their data are read."""
        if asked not in self._loaded:
            manager = self._knowing(asked)
            round_trip = _circle(manager.task_index, (asked,))
            if round_trip:
                raise DataError(
                    PREFIX + asked,
                    f"the group contains itself: {' > '.join(round_trip)}; take the last out of "
                    "the group's `task:` list",
                )
            with quiet(asked), _seeded():
                self._loaded[asked] = manager.load([asked])["tasks"]
        return self._loaded[asked]

    def _knowing(self, asked: str) -> Any:
        """The smallest of lm-eval's managers that knows all that a name stands for."""
        if self._folders:
            own = self._index(whole=False)
            entry = own.task_index.get(asked)
            # A group or tag of an include path may have members elsewhere.
            if entry is not None and entry.kind.name in LEAVES:
                return own
        return self._index(whole=True)

    def _index(self, *, whole: bool) -> Any:
        if whole not in self._indexes:
            if importlib.util.find_spec("lm_eval") is None:
                raise DataError("lm_eval", f"lm-eval is not installed; {INSTALL}")
            missing = [str(folder) for folder in self._folders if not folder.is_dir()]
            if missing:
                raise DataError("suite.lm_eval.include_path", f"no folder {', '.join(missing)}")
            from lm_eval.tasks import TaskManager

            logging.getLogger("lm_eval").setLevel(logging.ERROR)
            folders = list(map(str, self._folders)) or None
            with quiet("index"):
                self._indexes[whole] = TaskManager(include_path=folders, include_defaults=whole)
        return self._indexes[whole]

    def _build(self, name: str, asked: str, task: Any, limit: int | None) -> LoadedTask:
        settings = self._settings
        _refuse(name, task, settings)
        _configure(task, settings, settings.shots(name, asked))
        task.build_all_requests(
            limit=limit,
            rank=0,
            world_size=1,
            system_instruction=settings.system_instruction,
            apply_chat_template=settings.apply_chat_template,
            fewshot_as_multiturn=settings.multiturn,
            chat_template=_chat if settings.apply_chat_template else None,
        )
        entry = self._knowing(asked).task_index.get(name)
        file = getattr(entry, "yaml_path", None)
        return LoadedTask(name, task, file.parent if file else None)


def _circle(index: Mapping[str, Any], path: tuple[str, ...]) -> tuple[str, ...]:
    """The groups on the way from the first of `path` back to one of it; () where none leads back.

    lm-eval itself follows such groups until Python stops it.
    """
    entry = index.get(path[-1])
    config = getattr(entry, "cfg", None) or {}
    pending = [config.get("task")] if entry and entry.kind.name == "GROUP" else []
    for member in _flat(pending):
        if isinstance(member, str) and member in path:
            return (*path, member)
        if isinstance(member, str):
            found = _circle(index, (*path, member))
            if found:
                return found
    return ()


def _flat(members: Sequence[Any]) -> Iterator[Any]:
    """Names of a group's members, those of groups that are written inside it too."""
    for member in members:
        if isinstance(member, Mapping):
            yield member.get("group")
            member = member.get("task")
        if isinstance(member, list):
            yield from _flat(member)
        else:
            yield member


def _refuse(name: str, task: Any, settings: LmEvalSettings) -> None:
    """Raises DataError for tasks that cannot be asked sample by sample, greedily and safely."""
    if task.OUTPUT_TYPE == "loglikelihood_rolling":
        raise DataError(
            PREFIX + name,
            "measures the perplexity of whole documents (loglikelihood_rolling), which no engine "
            "here reads; name tasks that generate or compare continuations",
        )
    if getattr(task, "UNSAFE_CODE", False) and not settings.allow_code:
        raise DataError(
            PREFIX + name,
            "runs code that the model wrote; if that is safe here, set "
            "`suite.lm_eval.allow_code: true`",
        )


def _configure(task: Any, settings: LmEvalSettings, shots: int | None) -> None:
    """What `lm_eval` does with its command line; a task that wants no examples gets none."""
    if settings.gen_kwargs and task.OUTPUT_TYPE == "generate_until":
        task.set_config(key="generation_kwargs", value=dict(settings.gen_kwargs), update=True)
    own = task.get_config("num_fewshot")
    if shots is not None and own != 0:
        task.set_config(key="num_fewshot", value=shots)
    elif own is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=settings.fewshot_seed)


def _chat(history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> Chat:
    """Stands in for a model's chat template: keeps the turns."""
    turns = tuple((str(turn["role"]), str(turn["content"])) for turn in history)
    chat = Chat("\n".join(f"{role}: {text}" for role, text in turns))
    chat.turns = turns
    return chat


def trials(loaded: LoadedTask) -> list[dict[str, Any]]:
    """What the metrics of some documents are for trial answers; those they refuse are left out.

    Tells before any model runs which metrics have a value from 0 to 1 for a single document. One
    that is 0 for nothing said may grow with the answer, hence the gold answer and a long one.
    """
    documents: dict[Any, list[Any]] = {}
    for instance in loaded.instances:
        documents.setdefault(instance.doc_id, []).append(instance)
    names = list(documents)
    last = min(TRIAL_DOCUMENTS, len(names)) - 1
    found = []
    for name in [names[i * (len(names) - 1) // max(1, last)] for i in range(last + 1)]:
        for attempt in range(3):
            try:
                with quiet(loaded.name), _seeded():
                    tried = _answered(loaded.task, documents[name], attempt)
                    found.append(scores_of(loaded.task, tried)[name])
            except DataError:
                continue
    return found


def _answered(task: Any, instances: Sequence[Any], attempt: int) -> list[Any]:
    """A document's requests with trial answers: nothing or all alike, the gold or the first, ..."""
    tried = [copy(instance) for instance in instances]
    n = len(tried)
    for i, instance in enumerate(tried):
        response: Any
        if instance.request_type == "loglikelihood":
            response = ((-1.0, False), (-1.0 - i, i == 0), (-100.0 * (n - i), False))[attempt]
        else:
            response = ("", _gold(task, instance.doc) if attempt == 1 else "", LONG_ANSWER)[attempt]
        instance.resps = [response] * (instance.repeats or 1)
        instance.filtered_resps = {}
    return tried


def _gold(task: Any, document: Any) -> str:
    """A document's gold answer in words."""
    target = task.doc_to_target(document)
    if isinstance(target, list) and target:
        target = target[0]
    if isinstance(target, int) and task.get_config("doc_to_choice") is not None:
        target = task.doc_to_choice(document)[target]
    return str(target)


def scores_of(task: Any, instances: list[Any]) -> dict[Any, dict[str, Any]]:
    """doc id -> `metric,filter` -> what lm-eval's own filters and metrics make of the responses."""
    built, task._instances = task._instances, instances
    try:
        task.apply_filters()
    finally:
        task._instances = built
    by_document: dict[Any, list[Any]] = {}
    for instance in instances:
        by_document.setdefault(instance.doc_id, []).append(instance)
    found: dict[Any, dict[str, Any]] = {}
    for document, members in by_document.items():
        members.sort(key=lambda instance: instance.idx)
        found[document] = {}
        for key in members[0].filtered_resps:
            values = task.process_results(
                members[0].doc, [instance.filtered_resps[key] for instance in members]
            )
            found[document].update({f"{metric},{key}": v for metric, v in values.items()})
    return found


@contextlib.contextmanager
def quiet(name: str) -> Iterator[None]:
    """Nothing that lm-eval or a task prints is shown; what they raise is a DataError.

    Tasks are other people's programs: they raise anything.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            yield
    except DataError:
        raise
    except Exception as error:  # the boundary: a task is somebody else's program
        text = f"lm-eval: {type(error).__name__}: {first_line(error)}"
        holder = _with_an_empty_option(error)
        if holder is not None:
            text = (
                f"the first document of {holder or name} has an empty option (''), which lm-eval "
                "cannot load; give each option of `doc_to_choice` a text, or let another document "
                "be the first"
            )
        raise DataError(PREFIX + name, text) from error


def _with_an_empty_option(error: Exception) -> str | None:
    """The task of which lm-eval looked at the first letter of an option that has none, if so.

    A group's members are loaded together, so which one it was is read where it happened.
    """
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    seen = trace.tb_frame.f_locals if trace is not None else {}
    if not isinstance(error, IndexError) or "check_choices" not in seen or seen.get("choice"):
        return None
    return str(getattr(getattr(seen.get("self"), "config", None), "task", None) or "")


@contextlib.contextmanager
def _seeded() -> Iterator[None]:
    """lm-eval's seeds inside, the caller's state of the generators outside."""
    ours, numpys = random.getstate(), np.random.get_state()
    random.seed(PYTHON_SEED)
    np.random.seed(NUMPY_SEED)
    try:
        yield
    finally:
        random.setstate(ours)
        np.random.set_state(numpys)
