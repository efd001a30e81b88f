"""A source: where a task's samples come from, loaded lazily and checked as a whole.

`load` reads every row once without its pixels, reports all that is wrong with the data at once,
draws the subset, and hands over a sequence that builds a sample when it is asked for. Only tasks
without image ids (`BY_PIXELS`) have their pictures decoded here, each distinct file once.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import re
import socket
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import overload

from pydantic import BaseModel, ConfigDict, model_validator

from harness.data.images import UrlImage, download, pixel_hash
from harness.data.subset import choose
from harness.data.tables import AddressedTable, JoinedTable, Table, column_table, open_path
from harness.errors import DataError, Problem, SampleError, did_you_mean, first_line
from harness.types import BY_PIXELS, Sample, Source, Task

# Problems of single rows shown before "and n more".
SHOWN_PROBLEMS = 10


class SourceOverride(BaseModel):
    """Where a known task's data lie instead (`suite.sources` of a manifest)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str | None = None
    """File or folder, relative to the manifest."""
    hub: str | None = None
    """Hub data set id."""
    revision: str | None = None
    split: str | None = None
    config: str | None = None

    @model_validator(mode="after")
    def _one_place(self) -> SourceOverride:
        if self.path is not None and self.hub is not None:
            raise ValueError("give path or hub, not both")
        if self.path is not None and self.revision is not None:
            raise ValueError("a revision belongs to a hub id, not to a path")
        return self


class Samples(Sequence[Sample]):
    """The samples of a task, built when they are asked for. Pickles without any data."""

    def __init__(
        self,
        task: Task,
        table: Table,
        rows: Sequence[int],
        groups: Mapping[int, str],
        majority: float,
        left_out: int,
    ):
        self._task = task
        self._table = table
        self._rows = rows
        self._groups = groups
        self._majority = majority
        self.n_rows = len(table)
        """Rows of the source."""
        self.left_out = left_out
        """Rows that do not belong to the task (`Task.keep`)."""
        self.revision: str | None = None
        """Commit of the hub data set that the rows came from; None for local files."""

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row = self._rows[index]
        sample = self._task.sample(self._table.row(row), row)
        return _filled(sample, self._groups.get(row, ""), self._majority)

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))


def load(
    task: Task,
    override: SourceOverride | None = None,
    *,
    limit: int | None = None,
    seed: int = 0,
    base_dir: Path = Path(),
) -> Samples:
    """The samples of a task, or a seeded subset of them (see `harness.data.subset`).

    `base_dir`: folder that local paths are relative to. Pictures known by address are fetched
    now; those that cannot be had fail at request time, one by one. Raises DataError with all
    problems of columns or rows.
    """
    table = open_source(task, override, base_dir)
    _check_columns(task, table)
    kept, left_out, problems = _scan(task, table)
    if problems:
        raise DataError(task.name, problems)
    golds = Counter(gold for _, _, _, gold in kept)
    majority = max(golds.values()) / len(kept) if kept else 0.0
    groups = {row: group for row, _, group, _ in kept if group}
    chosen = choose(task.name, [group or name for _, name, group, _ in kept], limit, seed)
    rows = [kept[position][0] for position in chosen]
    samples = Samples(task, table, rows, groups, majority, left_out)
    samples.revision = table.commit
    if isinstance(table, AddressedTable):
        addressed = [image for sample in samples for image in sample.images]
        download([image for image in addressed if isinstance(image, UrlImage)])
    return samples


def open_source(task: Task, override: SourceOverride | None, base_dir: Path) -> Table:
    """The table of a task's rows: local, from the hub, with joined or addressed pictures."""
    source = _effective(task.source, override)
    if source.path:
        table = open_path((base_dir / source.path).absolute(), source.split, source.config)
    elif source.hub:
        table = _hub_table(source, source.config)
    else:
        raise DataError(
            task.name,
            f"has no hub id; say where its files are: suite.sources.{task.name}: {{path: ...}}",
        )
    names = table.columns
    if any(re.fullmatch(r"images?|image_\d+", name) for name in names):
        return table
    if source.images and source.images.on in names:
        return _joined(task, source, table, base_dir)
    return AddressedTable(table) if {"image_url", "image_sha256"} <= set(names) else table


def _effective(source: Source, override: SourceOverride | None) -> Source:
    """The source after a manifest's override. A local path keeps the split as a wish only."""
    if override is None:
        return source
    given = override.model_dump(exclude_none=True)
    if override.hub is not None:
        # Another data set has its own configuration, and no aliases.
        given = {"config": None, "aliases": (), **given, "path": ""}
    return dataclasses.replace(source, **given)


def _joined(task: Task, source: Source, table: Table, base_dir: Path) -> Table:
    """`table` with the pictures of the task's image table."""
    images = source.images
    assert images is not None
    if source.path:
        pictures = open_path((base_dir / source.path).absolute() / images.config, source.split)
    else:
        pictures = _hub_table(source, images.config)
    missing = [name for name in (images.key, "image") if name not in pictures.columns]
    if missing:
        found = ", ".join(pictures.columns)
        raise DataError(f"{task.name} images", f"no column {missing[0]!r}; found {found}")
    index = {str(key): row for row, key in enumerate(pictures.column(images.key))}
    return JoinedTable(table, pictures, images.on, index)


def _hub_table(source: Source, config: str | None) -> Table:
    """The rows of a hub data set, prepared by `datasets` as Arrow files. Raises DataError."""
    if not _hub_answers():
        # Read when `datasets` is imported: cached copies at once, instead of minutes of retries.
        os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        import datasets
    except ImportError:
        raise DataError(
            source.hub,
            "loading from the hub needs `pip install 'forgeteval[hf]'`; or give a local path",
        ) from None
    reasons = []
    for hub in (source.hub, *source.aliases):
        try:
            loaded = datasets.load_dataset(
                hub, name=config, split=source.split, revision=source.revision
            )
        # Boundary: `datasets` raises its own, the hub's, the network's and the file formats'.
        except Exception as error:
            reasons.append(Problem(hub, first_line(error, 160)))
            continue
        return column_table([Path(item["filename"]) for item in loaded.cache_files])
    reasons.append(
        Problem("cure", "check the network and the id, or give a local copy: suite.sources.<task>")
    )
    raise DataError(f"{source.hub}, split {source.split!r}", reasons)


@functools.cache
def _hub_answers() -> bool:
    """Whether the hub's name resolves, asked once; behind a proxy only the proxy can tell."""
    if urllib.request.getproxies():
        return True
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    try:
        socket.getaddrinfo(urllib.parse.urlsplit(endpoint).hostname, None)
    except OSError:
        return False
    return True


def _check_columns(task: Task, table: Table) -> None:
    """Raises DataError naming every missing column, with those found."""
    names = table.columns
    if not names and not len(table):  # a file without a line names no columns either
        raise DataError(task.name, "the source has no rows")
    problems = []
    for wanted in task.source.columns:
        either = wanted.split("|")
        if not set(either) & set(names):
            near = next((hint for name in either if (hint := did_you_mean(name, names))), "")
            wish = " or ".join(map(repr, either))
            problems.append(Problem("columns", f"no column {wish}{near}"))
    if problems:
        problems[-1] = dataclasses.replace(
            problems[-1], text=f"{problems[-1].text}; found {', '.join(names)}"
        )
        raise DataError(task.name, problems)


_Kept = tuple[int, str, str, str]
"""Row, id, group ("" = its own) and canonical answer of a sample."""


def _scan(task: Task, table: Table) -> tuple[list[_Kept], int, list[Problem]]:
    """One pass over all rows: what `load` must know of each, rows left out, problems."""
    kept: list[_Kept] = []
    seen: dict[str, int] = {}
    pixels: dict[str, str] = {}
    problems: list[Problem] = []
    left_out = 0
    needs_images = any(
        part.startswith("image") for part in "|".join(task.source.columns).split("|")
    )
    for row in range(len(table)):
        try:
            values = table.row(row)
            if task.keep is not None and not task.keep(values):
                left_out += 1
                continue
            sample = task.sample(values, row)
            _refuse_gaps(sample, needs_images)
            if sample.id in seen:
                raise ValueError(f"has the id {sample.id!r} of row {seen[sample.id]}")
        except (ValueError, KeyError, TypeError, SyntaxError) as error:
            text = f"no column {error}" if isinstance(error, KeyError) else str(error)
            problems.append(Problem(f"row {row}", text))
            continue
        seen[sample.id] = row
        group = _pixel_group(sample, pixels) if sample.group == BY_PIXELS else sample.group
        kept.append((row, sample.id, group, sample.answers[0]))
    if len(problems) > SHOWN_PROBLEMS:
        more = len(problems) - SHOWN_PROBLEMS
        problems = [*problems[:SHOWN_PROBLEMS], Problem("", f"and {more:,} more rows")]
    return kept, left_out, problems


def _refuse_gaps(sample: Sample, needs_images: bool) -> None:
    """Raises ValueError naming everything that a sample must have and has not."""
    there = {
        "id": sample.id,
        "question": sample.question.strip(),
        "answer": any(answer.strip() for answer in sample.answers),
        "image": sample.images or not needs_images,
    }
    missing = [name for name, value in there.items() if not value]
    if missing:
        raise ValueError(f"has no {' and no '.join(missing)}")


def _pixel_group(sample: Sample, known: dict[str, str]) -> str:
    """Name of the group of samples with the same first picture; "" when it cannot be decoded.

    `known`: hash of a file -> hash of its pixels; each distinct file is decoded once.
    """
    if not sample.images:
        return ""
    image = sample.images[0]
    try:
        if image.sha256 not in known:
            known[image.sha256] = pixel_hash(image.decode())[:32]
        return known[image.sha256]
    except SampleError:
        return ""


def _filled(sample: Sample, group: str, majority: float) -> Sample:
    """The sample with what the whole source knows."""
    by_pixels, by_majority = sample.group == BY_PIXELS, math.isnan(sample.chance)
    if not by_pixels and not by_majority:
        return sample
    return dataclasses.replace(
        sample,
        group=group if by_pixels else sample.group,
        chance=majority if by_majority else sample.chance,
    )


def source_stat(
    task: Task, override: SourceOverride | None = None, base_dir: Path = Path()
) -> tuple[str, ...]:
    """Cheap identity of a task's data: changes when files, ids or revisions do.

    For local data the relative path, size and modification time (ns) of every file; for the hub
    the id, configuration, split and revision asked for. Nothing is read.
    """
    source = _effective(task.source, override)
    facts = [source.split, source.config or ""]
    if not source.path:
        return ("hub", source.hub, *facts, source.revision or "")
    root = (base_dir / source.path).absolute()
    files = [root] if root.is_file() else sorted(f for f in root.rglob("*") if f.is_file())
    for file in files:
        stat = file.stat()
        name = file.relative_to(root).as_posix() if file != root else file.name
        facts.append(f"{name}:{stat.st_size}:{stat.st_mtime_ns}")
    return ("path", *facts)
