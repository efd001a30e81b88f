"""Discovery: the strategies, runs and stages in a folder that training scripts left behind.

Three ways of naming are understood: folders that say what they were trained on
(`llava_sa-trained_on_cub200_then_pathvqa/checkpoint-360`, as the reference study's scripts do),
numbered skills (`sa_proj/seed0/2_pathvqa`, as `forgeteval tune` does), and whatever a pattern with
named places describes (`{strategy}/run{run}/step{stage}-{trained_on}-*`). Nothing is guessed: what
cannot be told from a name is a question to the user, the base above all.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from harness.checkpoints import is_adapter
from harness.components import ComponentError, parse
from harness.errors import CheckpointError, Problem, UserError
from harness.natural_order import natural

PLACES = ("strategy", "run", "stage", "trained_on")
# Folders deeper than this below the one named are not looked into.
MAX_DEPTH = 5
SHOWN = 6

_TRAINED_ON = re.compile(r"(?P<strategy>.*?)[-_]?trained_on_(?P<skills>.+)")
_NUMBERED = re.compile(
    r"(?:(?:stage|step|task)[-_]?)?(?P<stage>\d+)[-_](?P<skill>.+)", re.IGNORECASE
)
_RUN = re.compile(r"(?:seed|run)[-_]?(?P<run>\w+)", re.IGNORECASE)
_STEP = re.compile(r"checkpoint-(\d+)")
# What trainers save beside weights under a name that weights may have too.
_NO_WEIGHTS = frozenset({"training_args.bin", "optimizer.bin", "scheduler.bin", "sampler.bin"})


class DiscoveryError(UserError):
    """A folder whose stages cannot be told from its names."""


@dataclass(frozen=True, slots=True)
class FoundStage:
    """One checkpoint with what its name says."""

    strategy: str
    run: str
    stage: int
    """From 1."""
    trained_on: str
    path: Path
    """The folder with the weights: the stage's own, or its last `checkpoint-N`."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a folder holds."""

    base: Path
    stages: tuple[FoundStage, ...]
    """By strategy, run and stage; names in natural order."""

    def skills(self) -> tuple[str, ...]:
        """What was trained on, in the order of first appearance."""
        return tuple(dict.fromkeys(stage.trained_on for stage in self.stages))

    def strategies(self) -> dict[str, Any]:
        """The `strategies:` of a manifest, with absolute paths.

        A component is declared where the stages' own records name one.
        """
        made: dict[str, Any] = {}
        for stage in self.stages:
            strategy = made.setdefault(stage.strategy, {"runs": {}})
            component = _recorded_component(stage.path)
            if component is not None:
                strategy["component"] = component
            step = {"trained_on": stage.trained_on, "path": str(stage.path)}
            strategy["runs"].setdefault(stage.run, []).append(step)
        return {
            name: {
                **{k: v for k, v in spec.items() if k == "component"},
                "runs": [{"name": run, "stages": steps} for run, steps in spec["runs"].items()],
            }
            for name, spec in made.items()
        }


def discover(folder: Path, base: Path | None = None, pattern: str | None = None) -> Found:
    """The study in `folder`. `base`: the checkpoint before any tuning, unless `folder` holds one
    called `base`. `pattern`: how stages are named below `folder`, with `PLACES` in braces; one that
    says `checkpoint-` means each of a training's checkpoints, else its last one stands for it.

    Raises DiscoveryError with everything that cannot be told.
    """
    folder = folder.absolute()
    if not folder.is_dir():
        raise DiscoveryError(str(folder), "no such folder")
    every = pattern is not None and "checkpoint-" in pattern
    owners = dict(_models(folder, every))
    if folder in owners:
        text = (
            f"is one training's output; give {owners[folder].name} in it, or the folder above"
            " (there --pattern '{trained_on}/checkpoint-{stage}' takes each checkpoint)"
        )
        raise DiscoveryError(str(folder), text)
    inside = owners.pop(folder / "base", None)
    if not owners:
        raise DiscoveryError(str(folder), "no checkpoints below it (config.json with weights)")
    stages, problems = _told(folder, owners, pattern)
    problems += _torn(folder, owners)
    problems += _twice(stages, folder)
    if problems:
        cure = "name it by a pattern such as '{strategy}/{stage}_{trained_on}', or in a manifest"
        problems.append(Problem("", cure))
    chosen = base.absolute() if base is not None else inside
    if chosen is None:
        problems.insert(0, Problem("base", _question(list(owners.values()))))
    if problems or chosen is None:
        raise DiscoveryError(str(folder), problems)
    stages.sort(key=lambda stage: (natural(stage.strategy), natural(stage.run), stage.stage))
    return Found(chosen, tuple(stages))


def _told(
    folder: Path, owners: Mapping[Path, Path], pattern: str | None
) -> tuple[list[FoundStage], list[Problem]]:
    """The stages whose names tell what they are, and a question for each of the others."""
    stages, problems = [], []
    matcher = _pattern(pattern) if pattern is not None else None
    chains: dict[tuple[str, str], dict[tuple[str, ...], Path]] = {}
    for owner, path in owners.items():
        name = owner.relative_to(folder)
        said = _TRAINED_ON.fullmatch(owner.name) if matcher is None else None
        if said is not None:
            strategy = said["strategy"] or owner.parent.name
            known = chains.setdefault((strategy, _run_of(name.parts[:-1]) or ""), {})
            first = known.setdefault(tuple(said["skills"].split("_then_")), path)
            if first is not path:
                other = first.relative_to(folder).as_posix()
                problems.append(Problem(name.as_posix(), f"is the same stage as {other}"))
            continue
        stage = _numbered(name, path, folder.name) if matcher is None else matcher(name, path)
        if stage is None:
            problems.append(Problem(name.as_posix(), "which stage of what is it?"))
        else:
            stages.append(stage)
    if matcher is None:
        # A pattern's numbers may be steps; those of names say what was trained before what.
        problems += _gaps(stages)
    for (strategy, run), known in chains.items():
        found, gaps = _chained(strategy, run, known)
        stages += found
        problems += gaps
    return stages, problems


def _models(folder: Path, every: bool) -> Iterator[tuple[Path, Path]]:
    """(stage folder, folder of its weights): its own, else its highest `checkpoint-N`.

    `every`: each `checkpoint-N` is a stage folder of its own. Links are followed.
    """
    for place, below, files in os.walk(folder, followlinks=True):
        here = Path(place)
        below[:] = sorted((name for name in below if not name.endswith(".partial")), key=natural)
        if len(here.relative_to(folder).parts) >= MAX_DEPTH or here.name.startswith("."):
            below.clear()
        steps = {int(m[1]): here / name for name in below if (m := _STEP.fullmatch(name))}
        if _is_model(files) and not (every and steps):
            yield here, here
            below.clear()
        elif steps and not every:
            yield here, steps[max(steps)]
            below[:] = [name for name in below if not _STEP.fullmatch(name)]


def _torn(folder: Path, owners: Mapping[Path, Path]) -> list[Problem]:
    """Last checkpoints without weights: the one before is never taken in their place."""
    return [
        Problem(path.relative_to(folder).as_posix(), "holds no weights; finish, copy or remove it")
        for path in owners.values()
        if not _is_model([file.name for file in path.iterdir()])
    ]


def _is_model(files: Sequence[str]) -> bool:
    configured = {"config.json", "adapter_config.json"} & set(files)
    weights = (name for name in files if name not in _NO_WEIGHTS)
    return bool(configured) and any(name.endswith((".safetensors", ".bin")) for name in weights)


def _numbered(name: Path, path: Path, study: str) -> FoundStage | None:
    """`sa_proj/seed0/2_pathvqa`, `sa_proj/stage2-pathvqa`, `2_pathvqa`."""
    found = _NUMBERED.fullmatch(name.name)
    if found is None:
        return None
    above = name.parts[:-1]
    strategy = "_".join(part for part in above if not _RUN.fullmatch(part)) or study
    return FoundStage(strategy, _run_of(above) or "0", int(found["stage"]), found["skill"], path)


def _run_of(parts: Sequence[str]) -> str | None:
    """What the innermost of the folders `seed3`, `run-b` calls a run."""
    runs = [m["run"] for part in parts if (m := _RUN.fullmatch(part))]
    return runs[-1] if runs else None


def _pattern(pattern: str) -> Any:
    """(relative path, weights) -> FoundStage or None, from a pattern with named places."""
    named = re.findall(r"\{(\w*)\}", pattern)
    unknown = [name for name in named if name not in PLACES]
    lacking = [name for name in ("stage", "trained_on") if name not in named]
    if unknown or lacking:
        text = f"knows {{{'}, {'.join(PLACES)}}} and needs {{stage}} and {{trained_on}}"
        raise DiscoveryError("pattern", [Problem(repr(pattern), text)])
    kinds = {"stage": r"\d+", "trained_on": r"[^/]+"}
    pieces = re.split(r"\{(\w+)\}", pattern)
    regex = "".join(
        f"(?P<{piece}>{kinds.get(piece, '[^/]+?')})" if index % 2 else _glob(piece)
        for index, piece in enumerate(pieces)
    )

    def match(name: Path, path: Path) -> FoundStage | None:
        found = re.fullmatch(regex, name.as_posix())
        if found is None:
            return None
        said: Mapping[str, str] = found.groupdict()
        return FoundStage(
            said.get("strategy", "tuned"),
            said.get("run", "0"),
            int(said["stage"]),
            said["trained_on"],
            path,
        )

    return match


def _glob(text: str) -> str:
    """A piece of a pattern as a regular expression; `*` stays inside one folder's name."""
    return "[^/]*".join(map(re.escape, text.split("*")))


def _chained(
    strategy: str, run: str, known: Mapping[tuple[str, ...], Path]
) -> tuple[list[FoundStage], list[Problem]]:
    """One run per longest sequence of skills; its stages are the sequence's beginnings."""
    ends = [s for s in known if not any(o[: len(s)] == s and o != s for o in known)]
    stages, gaps = [], []
    for skills in sorted(ends):
        orders = [] if len(ends) == 1 else ["-".join(skills)]
        name = "-".join([*([run] if run else []), *orders]) or "0"
        for count in range(1, len(skills) + 1):
            path = known.get(skills[:count])
            if path is None:
                missing = "_then_".join(skills[:count])
                gaps.append(Problem(f"{strategy}, stage {count}", f"no trained_on_{missing}"))
            else:
                stages.append(FoundStage(strategy, name, count, skills[count - 1], path))
    return stages, gaps


def _twice(stages: Sequence[FoundStage], folder: Path) -> list[Problem]:
    seen: dict[tuple[str, str, int], FoundStage] = {}
    problems = []
    for stage in stages:
        first = seen.setdefault((stage.strategy, stage.run, stage.stage), stage)
        if first is not stage:
            both = [s.path.relative_to(folder).as_posix() for s in (first, stage)]
            problems.append(Problem(both[1], f"is stage {stage.stage} like {both[0]}"))
    return problems


def _gaps(stages: Sequence[FoundStage]) -> list[Problem]:
    """Numbers that a run lacks: what comes after would be taken for an earlier stage."""
    numbers: dict[tuple[str, str], list[int]] = {}
    for stage in stages:
        numbers.setdefault((stage.strategy, stage.run), []).append(stage.stage)
    problems = []
    for (strategy, run), found in numbers.items():
        # Counting may begin with 0.
        steps = [0, *sorted(found)]
        for before, after in pairwise(steps):
            if after > before + 1:
                missing = f"no stage {before + 1} with weights before stage {after}"
                problems.append(
                    Problem(f"{strategy}, run {run}", f"{missing}; finish, copy or rename it")
                )
    return problems


def _question(paths: Sequence[Path]) -> str:
    """Asks for the base, with what the checkpoints themselves say about it."""
    named = list(dict.fromkeys(name for path in paths if (name := _start_of(path))))
    hint = f"; the checkpoints name {', '.join(named[:SHOWN])} as their start" if named else ""
    return f"which checkpoint was tuned? give it with --base FOLDER{hint}"


def _start_of(path: Path) -> str | None:
    file = path / ("adapter_config.json" if is_adapter(path) else "config.json")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        name = config.get("base_model_name_or_path") or config.get("_name_or_path")
    except (OSError, ValueError, AttributeError):
        return None
    return str(name) if name else None


def _recorded_component(path: Path) -> str | None:
    """What `forgeteval tune` wrote beside the weights, if that is a component."""
    try:
        record = json.loads((path / "training.json").read_text(encoding="utf-8"))
        component = str(record["component"])
        parse(component)
    except (OSError, ValueError, KeyError, TypeError, ComponentError, CheckpointError):
        return None
    return component
