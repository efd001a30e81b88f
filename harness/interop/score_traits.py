"""Traits of imported answers: what drift diagnostics need, from the words of an imported study.

Logs bring each document's gold answers, options and expected type with them; a score file at best
a gold answer, whose own form then says what was expected.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness.analysis.scores import BASE, BenchmarkScores, StageKey
from harness.errors import ResultsError
from harness.rows import answer_type
from harness.scoring.answer_type import is_bare_number
from harness.scoring.traits import NUMERIC_TYPES, trait_columns
from harness.types import Sample

_KEYS = ("strategy", "run", "stage", "sample_id")
_WORDS = ("question", "response", "gold", "answer_type", "answers", "choices")
_LETTERS = frozenset("ABCDEFGHIJ")

_Words = Mapping[str, list[Any]]
"""column -> its values, one per row of a benchmark."""


def with_imported_traits(bench: BenchmarkScores, file: Path) -> BenchmarkScores:
    """The benchmark with the traits of its responses among its rates; as it is without responses.

    Raises ResultsError when `file` cannot be read.
    """
    try:
        with pq.ParquetFile(file) as parquet:
            present = [name for name in _WORDS if name in parquet.schema_arrow.names]
        if "response" not in present:
            return bench
        table = pq.read_table(
            file, columns=[*_KEYS, *present], filters=[("benchmark", "=", bench.benchmark)]
        )
        words = {name: table[name].to_pylist() for name in table.column_names}
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:200]
        raise ResultsError(file.name, f"cannot be read: {reason}") from error
    samples = _samples(bench, words)
    answers = _answers(bench, words)
    rates = dict(trait_columns(samples, answers))
    bare = np.full(bench.status.shape, np.nan)
    for i, sample in enumerate(samples):
        if sample.answer_type in NUMERIC_TYPES:
            continue
        for j, texts in enumerate(answers):
            text = texts[i]
            if text is not None:
                bare[i, j] = is_bare_number(text)
    if not np.isnan(bare).all():
        rates["bare_number"] = bare
    return replace(bench, rates={**bench.rates, **rates})


def expected_type(gold: str) -> Any:
    """What kind of answer a question expects, told from a gold answer alone.

    >>> expected_type("B"), expected_type("12"), expected_type("a red bus")
    ('letter', 'integer', 'phrase')
    """
    return "letter" if gold.strip(" ().") in _LETTERS else answer_type(gold)


def _samples(bench: BenchmarkScores, words: _Words) -> list[Sample]:
    """One per sample of the benchmark, as far as the file tells."""
    known: dict[str, dict[str, Any]] = {}
    for name in ("question", "gold", "answer_type", "answers", "choices"):
        for sample_id, value in zip(words["sample_id"], words.get(name, ()), strict=False):
            if value:
                known.setdefault(sample_id, {}).setdefault(name, value)
    return [_sample(str(name), known.get(str(name), {})) for name in bench.sample_ids]


def _sample(sample_id: str, said: Mapping[str, Any]) -> Sample:
    gold = str(said.get("gold", ""))
    return Sample(
        id=sample_id,
        question=str(said.get("question", "")),
        answers=tuple(map(str, said["answers"])) if "answers" in said else (gold,),
        choices=tuple(map(str, said.get("choices", ()))),
        answer_type=said.get("answer_type") or expected_type(gold),
    )


def _answers(bench: BenchmarkScores, words: _Words) -> list[list[str | None]]:
    """[column][sample] -> the response; None where there is none."""
    column = {key: j for j, key in enumerate(bench.columns)}
    place = {str(name): i for i, name in enumerate(bench.sample_ids)}
    found: list[list[str | None]] = [[None] * len(place) for _ in bench.columns]
    rows = zip(
        words["strategy"], words["run"], words["stage"], words["sample_id"], words["response"],
        strict=True,
    )  # fmt: skip
    for strategy, run, stage, sample_id, response in rows:
        if response is None:
            continue
        key = StageKey(str(strategy), "0" if strategy == BASE else str(run), int(stage))
        i, j = place[str(sample_id)], column[key]
        # A sample has a row per scorer, and its words in one of them.
        if not found[j][i]:
            found[j][i] = str(response)
    return found
