"""The words of a study, a whole benchmark at a time: questions, gold answers, responses.

`StudyScores.texts` answers for one sample, which is right for the few flips that a gate shows. A
report shows thousands, so an imported study is read here in one pass per benchmark.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.analysis.scores import BASE, NOT_APPLICABLE, SCORED, StageKey, StudyScores
from harness.interop.score_files import KIND, ROWS_FILE
from harness.storage.result_files import read_json


@dataclass(frozen=True, slots=True)
class Words:
    """All words of one benchmark; what the study does not have is "" (None: no such answer)."""

    questions: Sequence[str]
    """In the order of the sample ids asked for."""
    golds: Sequence[str]
    responses: Mapping[StageKey, Sequence[str | None]]


@dataclass(frozen=True, slots=True)
class WordReader:
    """Reads the words behind a study's scores."""

    scores: StudyScores
    study_dir: Path
    imported: bool = field(init=False)

    def __post_init__(self) -> None:
        record = read_json(self.study_dir / "study.json")
        object.__setattr__(self, "imported", record.get("kind") == KIND)

    def read(self, benchmark: str, sample_ids: Sequence[str], keys: Sequence[StageKey]) -> Words:
        """The words of the given samples; `responses` has one sequence per key.

        Raises ResultsError when a stored cell cannot be read.
        """
        if self.imported:
            return self._imported(benchmark, sample_ids, keys)
        texts = self.scores.texts
        if texts is None:
            empty = [""] * len(sample_ids)
            return Words(empty, empty, {key: [None] * len(sample_ids) for key in keys})
        bench = self.scores.benchmarks[benchmark]
        at = {str(name): i for i, name in enumerate(bench.sample_ids)}
        # A cell that is still being answered cannot be read, and a failure is no answer.
        answered = (bench.status == SCORED) | (bench.status == NOT_APPLICABLE)
        columns = {key: answered[:, j] for j, key in enumerate(bench.columns)}
        return Words(
            [texts.question(benchmark, name) for name in sample_ids],
            [texts.gold(benchmark, name) for name in sample_ids],
            {
                key: [
                    texts.response(key, benchmark, name) if columns[key][at[name]] else None
                    for name in sample_ids
                ]
                for key in keys
            },
        )

    def _imported(
        self, benchmark: str, sample_ids: Sequence[str], keys: Sequence[StageKey]
    ) -> Words:
        import pyarrow.parquet as pq

        file = self.study_dir / ROWS_FILE
        names = pq.read_schema(file).names
        wanted = ["strategy", "run", "stage", "sample_id"]
        present = [column for column in ("question", "gold", "response") if column in names]
        table = pq.read_table(
            file, columns=wanted + present, filters=[("benchmark", "=", benchmark)]
        )
        columns = [table[column].to_pylist() for column in wanted]
        said = {
            column: table[column].to_pylist() if column in present else [""] * len(table)
            for column in ("question", "gold", "response")
        }
        questions: dict[str, str] = {}
        golds: dict[str, str] = {}
        responses: dict[tuple[Any, ...], str | None] = {}
        rows = zip(*columns, said["question"], said["gold"], said["response"], strict=True)
        for strategy, run, stage, sample, question, gold, response in rows:
            if question:
                questions.setdefault(sample, question)
            if gold:
                golds.setdefault(sample, gold)
            place = (strategy, "" if strategy == BASE else run, stage, sample)
            responses.setdefault(place, (response or "") if "response" in present else None)
        return Words(
            [questions.get(name, "") for name in sample_ids],
            [golds.get(name, "") for name in sample_ids],
            {
                key: [
                    responses.get(
                        (key.strategy, "" if key.strategy == BASE else key.run, key.stage, name)
                    )
                    for name in sample_ids
                ]
                for key in keys
            },
        )
