"""Answers: the samples that a report lets one look through, and what kinds of answers they are.

Not everything fits into one file that opens at once, so the choice is made here and said: every
sample while `MAX_ROWS` answers are enough; beyond that half of each benchmark's share is spread
evenly over it and half goes to the samples whose score changed at some stage.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.analysis.flips import RIGHT
from harness.analysis.scores import BASE, BenchmarkScores, StageKey, StudyScores
from harness.report import foreign_text
from harness.report.words import WordReader, Words
from harness.scoring.answer_type import classify

# Answers (samples x checkpoints) in one page: about 10 bytes each once compressed.
MAX_ROWS = 250_000
# Characters shown of one text; a repetition that runs to the token limit says no more than this.
TEXT_LIMIT = 300
# Characters of different texts in one page; they compress about three to one.
MAX_CHARACTERS = 20_000_000
# Characters looked at to tell an answer's type: what follows cannot change it but to `repetition`.
TYPE_LIMIT = 2000
FLOWS_SHOWN = 12
TYPES = (
    "letter", "yes_no", "integer", "decimal", "time", "phrase", "sentence", "refusal",
    "repetition", "empty",
)  # fmt: skip

Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which samples of one benchmark are shown; indices into its `sample_ids`, ascending."""

    shown: Indices
    even: Indices
    """Those of them that represent the benchmark: shares are counted on these."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What the sample browser is given."""

    payload: Mapping[str, Any]
    """JSON values only; every text is made visible and cut."""
    types: pd.DataFrame
    """strategy, stage, type, share_pct: kinds of answers on held-out questions, mean over runs."""
    flows: pd.DataFrame
    """strategy, stage, before, after, n, share_pct: the largest moves between kinds."""
    n_shown: int
    n_samples: int

    @property
    def n_characters(self) -> int:
        """Of all different texts: what decides the size of a page."""
        return sum(len(text) for bench in self.payload["benchmarks"] for text in bench["texts"])


def choose(scores: StudyScores, scorer: str, max_rows: int = MAX_ROWS) -> dict[str, Chosen]:
    """benchmark -> samples to show. All, where all fit."""
    columns = max(1, len(scores.stages))
    total = sum(len(bench.sample_ids) for bench in scores.benchmarks.values())
    room = max_rows // columns
    chosen = {}
    for name, bench in scores.benchmarks.items():
        n = len(bench.sample_ids)
        if total <= room:
            chosen[name] = Chosen(np.arange(n), np.arange(n))
            continue
        quota = max(1, room * n // total)
        even = _spread(np.arange(n), quota - quota // 2)
        changed = np.setdiff1d(np.flatnonzero(changed_samples(bench, scorer)), even)
        some = np.union1d(even, _spread(changed, quota // 2))
        rest = np.setdiff1d(np.arange(n), some)
        chosen[name] = Chosen(np.union1d(some, _spread(rest, quota - len(some))), even)
    return chosen


def changed_samples(bench: BenchmarkScores, scorer: str) -> NDArray[np.bool_]:
    """(n,) samples that are right in some columns and wrong in others."""
    values = bench.values.get(bench.judged_by(scorer))
    if values is None:
        return np.zeros(len(bench.sample_ids), bool)
    right, known = values >= RIGHT, np.isfinite(values)
    return np.asarray((right & known).any(axis=1) & (~right & known).any(axis=1))


def _spread(indices: Indices, n: int) -> Indices:
    """`n` of the indices (all, if there are fewer), evenly spaced."""
    if n >= len(indices):
        return indices
    return indices[np.linspace(0, len(indices) - 1, max(n, 0)).astype(np.int64)]


def collect(
    scores: StudyScores,
    reader: WordReader,
    chosen: Mapping[str, Chosen],
    pictures: Mapping[str, Mapping[str, int]],
) -> Answers:
    """Read and pack the words of the chosen samples.

    `pictures`: benchmark -> sample id -> its number among the page's pictures. Raises ResultsError
    when a stored cell cannot be read.
    """
    counts = TypeCounts(scores)
    benchmarks = []
    for name, bench in scores.benchmarks.items():
        samples = chosen[name].shown
        names = [str(bench.sample_ids[i]) for i in samples]
        words = reader.read(name, names, bench.columns)
        kinds = {
            key: [None if text is None else kind_of(text) for text in said]
            for key, said in words.responses.items()
        }
        if bench.role == "held_out":
            counts.add(kinds, np.isin(samples, chosen[name].even))
        benchmarks.append(_packed(scores, bench, samples, words, kinds, pictures.get(name, {})))
    payload = {
        "views": _views(scores),
        "types": list(TYPES),
        "scorers": list(dict.fromkeys(s for b in scores.benchmarks.values() for s in b.values)),
        "benchmarks": benchmarks,
    }
    n_shown = sum(len(found.shown) for found in chosen.values())
    n_samples = sum(len(bench.sample_ids) for bench in scores.benchmarks.values())
    return Answers(payload, counts.shares(), counts.flows(), n_shown, n_samples)


@lru_cache(maxsize=200_000)
def kind_of(text: str) -> str:
    """The answer type of a response, however long."""
    return classify(text[:TYPE_LIMIT])


def _views(scores: StudyScores) -> list[dict[str, Any]]:
    """One per run of a strategy: which columns stand side by side. A base alone is one too."""
    position = {stage.key: i for i, stage in enumerate(scores.stages)}
    views = []
    for (strategy, run), stages in scores.runs().items():
        views.append(
            {
                "strategy": foreign_text.name(strategy),
                "run": foreign_text.name(run),
                "stages": [foreign_text.name(stage.name) for stage in stages],
                "numbers": [stage.key.stage for stage in stages],
                "columns": [position[stage.key] for stage in stages],
            }
        )
    if not views and scores.stages:
        alone: dict[str, Any] = {"strategy": BASE, "run": "0", "start": 0}
        alone["stages"] = [foreign_text.name(stage.name) for stage in scores.stages]
        alone["numbers"] = [stage.key.stage for stage in scores.stages]
        alone["columns"] = list(range(len(scores.stages)))
        views.append(alone)
    return views


def _packed(
    scores: StudyScores,
    bench: BenchmarkScores,
    samples: Indices,
    words: Words,
    kinds: Mapping[StageKey, Sequence[str | None]],
    pictures: Mapping[str, int],
) -> dict[str, Any]:
    """One benchmark of the payload: texts once each, everything else as numbers; -1 = none."""
    texts: dict[str, int] = {}

    def number(text: str | None) -> int:
        if text is None:
            return -1
        return texts.setdefault(foreign_text.visible(text, TEXT_LIMIT), len(texts))

    at = {key: j for j, key in enumerate(bench.columns)}
    order = [at.get(stage.key) for stage in scores.stages]
    keys = [stage.key for stage in scores.stages]
    nothing = [-1] * len(samples)
    graded = {}
    for scorer, values in bench.values.items():
        points = np.where(np.isfinite(values), np.rint(100 * values), -1).astype(int)[samples]
        graded[scorer] = [nothing if j is None else points[:, j].tolist() for j in order]
    return {
        "name": foreign_text.name(bench.benchmark),
        "role": bench.role,
        "ids": [foreign_text.name(str(bench.sample_ids[i])) for i in samples],
        "questions": [number(text) for text in words.questions],
        "golds": [number(text) for text in words.golds],
        "answers": [
            nothing if j is None else [number(text) for text in words.responses[key]]
            for key, j in zip(keys, order, strict=True)
        ],
        "kinds": [
            nothing
            if j is None
            else [-1 if kind is None else TYPES.index(kind) for kind in kinds[key]]
            for key, j in zip(keys, order, strict=True)
        ],
        "scores": graded,
        "pictures": [pictures.get(str(bench.sample_ids[i]), -1) for i in samples],
        "texts": list(texts),
    }


class TypeCounts:
    """Counts answer types, and moves between them, over held-out benchmarks."""

    def __init__(self, scores: StudyScores):
        self._runs = {run: [s.key for s in stages] for run, stages in scores.runs().items()}
        self._given: dict[StageKey, Counter[str]] = {}
        self._moves: dict[tuple[str, int], Counter[tuple[str, str]]] = {}
        self._incomplete: set[StageKey] = set()
        """Checkpoints that lack all answers to some benchmark: their shares would be of others."""

    def add(
        self, kinds: Mapping[StageKey, Sequence[str | None]], counted: NDArray[np.bool_]
    ) -> None:
        """Count one benchmark's answers where `counted` (n,) is true."""
        where = np.flatnonzero(counted).tolist()
        for key, found in kinds.items():
            here = [kind for i in where if (kind := found[i])]
            self._given.setdefault(key, Counter()).update(here)
            if where and not here:
                self._incomplete.add(key)
        for (strategy, _), keys in self._runs.items():
            base = kinds.get(keys[0])
            for key in keys[1:]:
                after = kinds.get(key)
                if base is None or after is None:
                    continue
                moves = [(base[i], after[i]) for i in where]
                self._moves.setdefault((strategy, key.stage), Counter()).update(
                    (one, other) for one, other in moves if one and other
                )

    def shares(self) -> pd.DataFrame:
        """strategy, stage, type, share_pct; mean over runs of each run's shares.

        A stage that some run has not answered in full is left out.
        """
        rows = []
        partly: set[tuple[str, int]] = set()
        for (strategy, _), keys in self._runs.items():
            for at, key in enumerate(keys):
                stage = 0 if at == 0 else key.stage
                given = self._given.get(key, Counter())
                if not given or key in self._incomplete:
                    partly.add((strategy, stage))
                    continue
                total = given.total()
                rows += [(strategy, stage, kind, 100 * given[kind] / total) for kind in TYPES]
        rows = [row for row in rows if row[:2] not in partly]
        frame = pd.DataFrame(rows, columns=["strategy", "stage", "type", "share_pct"])
        means = frame.groupby(["strategy", "stage", "type"], sort=False, as_index=False).mean()
        used = means.groupby("type")["share_pct"].transform("sum") > 0
        return means[used].reset_index(drop=True)

    def flows(self) -> pd.DataFrame:
        """The largest moves from one kind at the base to another after a stage."""
        rows = [
            (strategy, stage, before, after, n, 100 * n / held)
            for (strategy, stage), moves in self._moves.items()
            for (before, after), n in moves.items()
            if before != after
            for held in [sum(count for (one, _), count in moves.items() if one == before)]
        ]
        rows.sort(key=lambda row: (-row[4], row[0], row[1], row[2], row[3]))
        columns = ["strategy", "stage", "before", "after", "n", "share_pct"]
        return pd.DataFrame(rows[:FLOWS_SHOWN], columns=columns)
