"""Names: which stage of which strategy a log folder holds, read from what it is called.

Evaluators write a model's path into one folder name (`checkpoints__llm__seed0__2_count`), people
put a folder per stage around it, the reference study does both
(`<experiment>/after_training_on_cub200_then_pathvqa/<run>__checkpoint-360`). All come to the same
list of parts, in which a chain of skills, a numbered stage or the word `base` is looked for.
Whatever is read is shown before it is used; what cannot be read is a question to the user.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.errors import Problem, did_you_mean
from harness.interop.logs.folders import LogFolder, one_model
from harness.types import BASE

CHAIN = "_then_"
_TRAINED_ON = re.compile(r"(?P<strategy>.*?)[-_]?train(?:ed|ing)[-_]on[-_](?P<skills>.+)", re.I)
_BASE = re.compile(r"(?:(?:stage|step)?[-_]?0+[-_])?base(?:line)?|(?:stage|step)[-_]?0+", re.I)
_RUN = re.compile(r"(?:seed|run)[-_]?(?P<run>\w+)", re.I)
_STEP = re.compile(r"checkpoint-(?P<step>\d+)")
_STAGE = re.compile(
    r"(?:(?P<strategy>[A-Za-z].*?)[-_])??(?:(?:seed|run)[-_]?(?P<run>[A-Za-z0-9]+)[-_])?"
    r"(?:(?:stage|step|task)[-_]?(?P<named>\d+)(?:[-_](?P<then>.+))?|(?P<bare>\d+)[-_](?P<skill>[A-Za-z].*))",
    re.I,
)


@dataclass(frozen=True, slots=True)
class NamedStage:
    """One log folder as a stage."""

    strategy: str
    run: str
    stage: int
    """0 = the base."""
    name: str
    trained_on: str | None
    folders: tuple[LogFolder, ...]
    """Where its logs are; the newest run wins."""

    @property
    def path(self) -> str:
        """The folder that holds all its logs."""
        return posixpath.commonpath([log.name for log in self.folders])

    @property
    def label(self) -> str:
        """How messages call it: `llm@2`, `llm/1@2`, `base`."""
        if self.strategy == BASE:
            return BASE
        run = "" if self.run == "0" else f"/{self.run}"
        return f"{self.strategy}{run}@{self.stage}"


@dataclass(frozen=True, slots=True)
class _Chain:
    strategy: str
    run: str
    skills: tuple[str, ...]
    folder: LogFolder
    step: int


def read_names(
    home: str, folders: Sequence[LogFolder]
) -> tuple[list[NamedStage], list[str], list[Problem]]:
    """(stages with the base first, notes, problems). `home`: the name of the imported folder."""
    shared, parts = _without_shared([_parts(folder.name) for folder in folders])
    # Where no name says more, all stages are of one strategy, called as what they share.
    home = shared or home
    stages: list[NamedStage] = []
    chains: list[_Chain] = []
    unread: list[LogFolder] = []
    for folder, words in zip(folders, parts, strict=True):
        chain = _chain(home, words, folder)
        stage = None if chain else _stage(home, words, folder)
        if chain is not None:
            chains.append(chain)
        elif stage is not None:
            stages.append(stage)
        else:
            unread.append(folder)
    notes: list[str] = []
    latest, problems = _latest_steps(chains, notes)
    stages += _chained(latest, notes)
    stages = _merged(stages)
    bases = [stage for stage in stages if stage.stage == 0]
    if not bases and len(unread) == 1 and stages:
        notes.append(f"{unread[0].name}: taken for the base, because its name names no stage")
        bases = [_base(unread.pop())]
    problems += _questions(bases, unread, stages)
    tuned = [stage for stage in stages if stage.stage > 0]
    tuned.sort(key=lambda s: (s.strategy, s.run, s.stage))
    problems += _twice(tuned)
    return [*bases[:1], *tuned], notes, problems


def match_skill(skill: str, tasks: Sequence[str], same: Sequence[tuple[str, str]] = ()) -> str:
    """The task that a skill's name means; the skill itself where the logs have no such task.

    `same`: (task of a log, our name of it).

    >>> match_skill("count", ["micro_count", "micro_color"])
    'micro_count'
    >>> match_skill("textvqa", ["textvqa_val", "pathvqa"]), match_skill("clock", ["pathvqa"])
    ('textvqa_val', 'clock')
    """
    if skill in tasks:
        return skill
    wanted = _letters(skill)
    renamed = [task for task, name in same if task in tasks and _letters(name) == wanted]
    for found in (
        renamed,
        [task for task in tasks if _letters(task) == wanted],
        [task for task in tasks if task.endswith((f"_{skill}", f"-{skill}"))],
        [task for task in tasks if task.startswith((f"{skill}_", f"{skill}-"))],
    ):
        if len(found) == 1:
            return found[0]
    return skill


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def _parts(name: str) -> list[str]:
    """A folder's path as words; evaluators write `__` where a model's path had `/`."""
    words = name.replace("\\", "/").replace("__", "/").split("/")
    return [word for word in words if word not in ("", ".", "..")]


def _without_shared(parts: Sequence[list[str]]) -> tuple[str, list[list[str]]]:
    """(the last word that all begin with, the words after those): they say nothing of a stage."""
    shared = 0
    while all(len(words) > shared + 1 for words in parts) and (
        len({words[shared] for words in parts}) == 1
    ):
        shared += 1
    last = parts[0][shared - 1] if shared and len(parts) > 1 else ""
    return last, [words[shared if len(parts) > 1 else 0 :] for words in parts]


def _chain(home: str, words: Sequence[str], folder: LogFolder) -> _Chain | None:
    for at, word in enumerate(words):
        said = _TRAINED_ON.fullmatch(word)
        if said is None:
            continue
        prefix = re.sub(r"(?:^|[-_])after$", "", said["strategy"], flags=re.I)
        above, run = _split_run(words[:at])
        steps = [int(m["step"]) for w in words if (m := _STEP.fullmatch(w))]
        return _Chain(
            prefix or "_".join(above) or home,
            run,
            tuple(said["skills"].split(CHAIN)),
            folder,
            max(steps, default=0),
        )
    return None


def _stage(home: str, words: Sequence[str], folder: LogFolder) -> NamedStage | None:
    """The rightmost part that names a stage, or the base."""
    for at in range(len(words) - 1, -1, -1):
        word = words[at]
        if _STEP.fullmatch(word):
            continue
        if _BASE.fullmatch(word):
            return _base(folder)
        said = _STAGE.fullmatch(word)
        if said is None:
            continue
        number = int((said["named"] or said["bare"])[:9])
        skill = said["skill"] or said["then"]
        if number == 0 or (skill and _BASE.fullmatch(skill)):
            return _base(folder)
        above, run = _split_run(words[:at])
        strategy = said["strategy"] or "_".join(above) or home
        return NamedStage(
            strategy, said["run"] or run, number, skill or f"stage {number}", skill, (folder,)
        )
    return None


def _split_run(words: Sequence[str]) -> tuple[list[str], str]:
    """(the words that name a strategy, the run that one of them names)."""
    runs = [m["run"] for word in words if (m := _RUN.fullmatch(word))]
    return [w for w in words if not _RUN.fullmatch(w)], runs[-1] if runs else "0"


def _base(folder: LogFolder) -> NamedStage:
    return NamedStage(BASE, "0", 0, BASE, None, (folder,))


def _latest_steps(chains: Sequence[_Chain], notes: list[str]) -> tuple[list[_Chain], list[Problem]]:
    """(one per stage: of several `checkpoint-N` the last; stages with two of equal right)."""
    best: dict[tuple[str, str, tuple[str, ...]], _Chain] = {}
    problems = []
    for chain in sorted(chains, key=lambda chain: chain.step):
        before = best.get((chain.strategy, chain.run, chain.skills))
        if before is not None and before.step == chain.step:
            text = f"is the same stage as {before.folder.name}. Cure: a map, with --map"
            problems.append(Problem(chain.folder.name, text))
        elif before is not None:
            notes.append(
                f"{before.folder.name}: passed over, {chain.folder.name} is a later checkpoint"
            )
        best[chain.strategy, chain.run, chain.skills] = chain
    return list(best.values()), problems


def _chained(chains: Sequence[_Chain], notes: list[str]) -> list[NamedStage]:
    """One run per longest sequence of skills; its stages are the sequence's beginnings."""
    stages = []
    for strategy, run in dict.fromkeys((chain.strategy, chain.run) for chain in chains):
        known = {c.skills: c.folder for c in chains if (c.strategy, c.run) == (strategy, run)}
        ends = [s for s in known if not any(o[: len(s)] == s and o != s for o in known)]
        for skills in sorted(ends):
            name = run if len(ends) == 1 else "-".join(skills)
            for count in range(1, len(skills) + 1):
                folder = known.get(skills[:count])
                trained = skills[count - 1]
                if folder is None:
                    chain = CHAIN.join(skills[:count])
                    notes.append(f"{strategy}: no logs of stage {count} ({chain})")
                else:
                    stages.append(NamedStage(strategy, name, count, trained, trained, (folder,)))
    return stages


def _merged(stages: Sequence[NamedStage]) -> list[NamedStage]:
    """Folders of one stage put together, where they can be one model's."""
    found: dict[tuple[str, str, int], list[NamedStage]] = {}
    for stage in stages:
        found.setdefault((stage.strategy, stage.run, stage.stage), []).append(stage)
    merged: list[NamedStage] = []
    for same in found.values():
        folders = tuple(log for stage in same for log in stage.folders)
        merged += [replace(same[0], folders=folders)] if one_model(folders) else same
    return merged


def _questions(
    bases: Sequence[NamedStage], unread: Sequence[LogFolder], stages: Sequence[NamedStage]
) -> list[Problem]:
    problems = [Problem(folder.name, "which stage of what is it?") for folder in unread]
    if len(bases) > 1:
        names = ", ".join(stage.path for stage in bases)
        problems.insert(0, Problem("base", f"several folders could be it: {names}"))
    elif not bases:
        text = "no folder is called so; which one holds the logs of the model before tuning?"
        problems.insert(0, Problem("base", text))
    if not any(stage.stage for stage in stages):
        problems.append(Problem("strategies", "no folder's name names a stage"))
    if problems:
        problems.append(Problem("", "Cure: say it in a map, with --map map.yaml"))
    return problems


def _twice(stages: Sequence[NamedStage]) -> list[Problem]:
    seen: dict[tuple[str, str, int], NamedStage] = {}
    problems = []
    for stage in stages:
        first = seen.setdefault((stage.strategy, stage.run, stage.stage), stage)
        if first is not stage:
            one, other = (s.path for s in (first, stage))
            problems.append(Problem(other, f"is {stage.label} like {one}. Cure: a map, with --map"))
    return problems


def rename_skills(
    stages: Sequence[NamedStage], tasks: Sequence[str], same: Sequence[tuple[str, str]]
) -> list[NamedStage]:
    """The stages, with what they were trained on called as the logs call the task."""
    return [
        replace(s, trained_on=match_skill(s.trained_on, tasks, same)) if s.trained_on else s
        for s in stages
    ]


def nearest(name: str, folders: Sequence[LogFolder]) -> str:
    """A hint which folder is probably meant, else which there are."""
    known = [folder.name for folder in folders]
    return did_you_mean(name, known) or f"; the logs are in {', '.join(known[:6])}" + (
        " ..." if len(known) > 6 else ""
    )
