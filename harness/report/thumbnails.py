"""Thumbnails: small pictures beside the samples, where the data are at hand.

A study stores no pictures, so they come from the manifest's local sources; nothing is fetched from
a hub for a report. Few and small on purpose: the first `MAX_PICTURES` different pictures of the
samples that changed, at most `SIDE` pixels wide and high.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

from harness import registry
from harness.data import sources
from harness.errors import SampleError, UserError
from harness.lmeval.settings import is_lm_eval
from harness.manifest import Manifest, read_manifest
from harness.types import Image, Samples

MAX_PICTURES = 400
MAX_BYTES = 1_500_000
SIDE = 144
QUALITY = 70


@dataclass(frozen=True, slots=True)
class Thumbnails:
    """Pictures for a page, and what is said about them."""

    said: str
    """Which pictures are shown, or why none are."""
    uris: Sequence[str] = ()
    """`data:` addresses, each picture once."""
    of: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """benchmark -> sample id -> index into `uris`."""


def thumbnails(manifest_file: Path, wanted: Mapping[str, Sequence[str]]) -> Thumbnails:
    """Pictures of the wanted samples (benchmark -> ids, most wanted first).

    Benchmarks whose data are not local, cannot be read, or are lm-eval's own go without; `said`
    tells which.
    Raises ManifestError for a manifest that cannot be read.
    """
    manifest = read_manifest(manifest_file, check_paths=False)
    loaded: dict[str, Samples] = {}
    for name in wanted:
        found = _samples(manifest, name, manifest_file.absolute().parent)
        if found is not None:
            loaded[name] = found
    first = {name: set(list(wanted[name])[:MAX_PICTURES]) for name in loaded}
    places = {
        name: {sample.id: sample.images for sample in samples if sample.id in first[name]}
        for name, samples in loaded.items()
    }
    uris: list[str] = []
    numbers: dict[str, int] = {}
    of: dict[str, dict[str, int]] = {}
    room = MAX_BYTES
    for name, sample_id in _in_turn({name: wanted[name] for name in loaded}):
        image = next(iter(places[name].get(sample_id, ())), None)
        if image is None:
            continue
        try:
            if image.sha256 not in numbers:
                if len(uris) >= MAX_PICTURES or room <= 0:
                    continue
                uris.append(_uri(image))
                room -= len(uris[-1])
                numbers[image.sha256] = len(uris) - 1
            of.setdefault(name, {})[sample_id] = numbers[image.sha256]
        except SampleError:
            continue
    return Thumbnails(_said(len(uris), [name for name in wanted if name not in loaded]), uris, of)


def _samples(manifest: Manifest, name: str, folder: Path) -> Samples | None:
    """The samples of a task whose data are local files; None otherwise."""
    suite = manifest.suite
    override = suite.sources.get(name)
    inline = suite.tasks.get(name)
    try:
        task = registry.inline_task(name, inline) if inline else registry.task(name)
        if not (task.source.path or (override and override.path)):
            return None
        return sources.load(task, override, base_dir=folder)
    except UserError:
        return None


def _in_turn(wanted: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, str]]:
    """Each benchmark's first sample, then each one's second, ..."""
    for row in zip_longest(*wanted.values()):
        for name, sample_id in zip(wanted, row, strict=True):
            if sample_id is not None:
                yield name, sample_id


def _uri(image: Image) -> str:
    picture = image.decode()
    picture.thumbnail((SIDE, SIDE))
    out = io.BytesIO()
    picture.convert("RGB").save(out, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode("ascii")


def _said(n: int, without: Sequence[str]) -> str:
    # Where the data of lm-eval's tasks lie is lm-eval's affair, local files or not.
    foreign = [name for name in without if is_lm_eval(name)]
    remote = [name for name in without if name not in foreign]
    absent = f" Without local data: {', '.join(remote)}." if remote else ""
    if foreign:
        absent += f" lm-eval reads its tasks' data itself, so without: {', '.join(foreign)}."
    if n == 0 and foreign and not remote:
        return f"No pictures.{absent}"
    if n == 0:
        return f"No pictures: the data behind the samples are not local files.{absent}"
    return (
        f"{n} different pictures (at most {MAX_PICTURES}, {SIDE} pixels), those of samples whose "
        f"score changed first.{absent}"
    )
