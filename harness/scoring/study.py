"""From a study's stored cells to the arrays that `harness.analysis` judges.

The last room that knows predictions: it grades them, joins samples into score units as the
task's headline says, and hands over numbers with their signatures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness import registry
from harness.analysis.scores import (
    FAILED,
    MISSING,
    NOT_APPLICABLE,
    SCORED,
    BenchmarkScores,
    StudyScores,
    TrainingCost,
)
from harness.audit_record import audited
from harness.lmeval import graded
from harness.lmeval.graded import Grades
from harness.lmeval.settings import is_lm_eval
from harness.lmeval.tasks import as_task
from harness.record import read_record
from harness.scoring.answer_type import is_bare_number
from harness.scoring.diagnostics import diagnostic_columns
from harness.scoring.grade import Grader, chosen
from harness.scoring.traits import NUMERIC_TYPES, trait_columns
from harness.storage.signatures import MODEL_KEYS, signature_text
from harness.storage.store import Store
from harness.types import OWN_METRIC, Headline, Sample, ScorerName, Stage, StageKey, Task

DEFAULT_SCORERS: tuple[ScorerName, ...] = ("strict", "lenient")


def read_scores(
    study_dir: Path, scorers: Sequence[ScorerName] = DEFAULT_SCORERS, *, traits: bool = False
) -> StudyScores:
    """Grades every sealed cell of a study. Imported studies are read as they are.

    `traits`: the rates hold all traits of the answers as well, and what diagnostics read
    (`harness.scoring.diagnostics`), for `drift`.
    Raises ResultsError when the folder holds no study or a file in it is damaged.
    """
    record = read_record(study_dir)
    if record.get("kind") == "imported":
        from harness.interop.score_files import read_imported

        return read_imported(study_dir, traits=traits)
    store = Store(study_dir)
    stages = [_stage(row) for row in record["stages"]]
    columns = tuple(stage.key for stage in stages)
    benchmarks = {}
    again = []
    ungraded = {}
    for row in record["benchmarks"]:
        name = row["name"]
        task = _task(record, row)
        samples = store.read_samples(name, row["data"])
        cells = [stage["cells"].get(name) for stage in record["stages"]]
        answers = [_answers(store, name, cell, samples) for cell in cells]
        if is_lm_eval(name):
            grades = [
                graded.read(store, name, str(cell), row["grading"]) if answer else None
                for cell, answer in zip(cells, answers, strict=True)
            ]
            bench = lm_eval_benchmark(task, row["role"], samples, columns, answers, grades)
            if why := _refusal(name, stages, grades):
                ungraded[name] = why
        else:
            bench = grade_benchmark(task, row["role"], samples, columns, answers, scorers)
        if traits:
            texts = [a.texts if a else None for a in answers]
            bench = with_rates(bench, task.headline, samples, trait_columns(samples, texts))
        benchmarks[name] = bench
        repeated = _answers(store, name, record.get("base_again", {}).get(name), samples)
        if repeated and answers[0]:
            again.append((answers[0].texts, repeated.texts))
    scores = StudyScores(
        study=record["study"],
        base_model=record["base_model"],
        stages=tuple(stages),
        benchmarks=benchmarks,
        components=record["components"],
        texts=StoredTexts(store, record),
        notes=(
            *((noise_floor(again),) if again else ()),
            *(f"{row['name']}: {row['note']}" for row in record["benchmarks"] if row.get("note")),
        ),
        ungraded=ungraded,
        costs={name: TrainingCost(**cost) for name, cost in record.get("costs", {}).items()},
        audited=audited(study_dir, record),
    )
    return read_diagnostics(scores, study_dir) if traits else scores


def read_diagnostics(scores: StudyScores, study_dir: Path) -> StudyScores:
    """A study's scores with what its diagnostics read among the rates; as they are without any.

    Raises ResultsError where a file of the study is damaged.
    """
    record = read_record(study_dir)
    if not any(stage.get("diagnostics") for stage in record.get("stages", ())):
        return scores
    store = Store(study_dir)
    benchmarks = {}
    for row in record["benchmarks"]:
        name, task = row["name"], _task(record, row)
        samples = store.read_samples(name, row["data"])
        answers = [_answers(store, name, s["cells"].get(name), samples) for s in record["stages"]]
        texts = [a.texts if a else None for a in answers]
        strict = task.scorers.get("strict")
        read = diagnostic_columns(store, record["stages"], name, samples, strict, texts)
        # A probe need not have read all prompts of a document.
        units = Units.of(task.headline, samples)
        rates = {measure: units.known_mean(values) for measure, values in read.items()}
        bench = scores.benchmarks[name]
        benchmarks[name] = replace(bench, rates={**bench.rates, **rates})
    return replace(scores, benchmarks=benchmarks)


def _task(record: Mapping[str, Any], row: Mapping[str, Any]) -> Task:
    """The task of a benchmark in a study's record: declared, lm-eval's, or of the registry."""
    name = row["name"]
    if is_lm_eval(name):
        return as_task(name, row["metric"])
    inline = record["tasks"].get(name)
    return registry.inline_task(name, registry.InlineTask(**inline)) if inline else (
        registry.task(name)
    )  # fmt: skip


def _refusal(name: str, stages: Sequence[Stage], grades: Sequence[Grades | None]) -> str:
    """Why a benchmark of lm-eval's could not be graded, and the cure; "" where it could."""
    why = [(s, g.refused) for s, g in zip(stages, grades, strict=True) if g and g.refused]
    if not why:
        return ""
    where = "" if len(why) == len(stages) else f" at {', '.join(s.name for s, _ in why[:3])}"
    where += ", ..." if where and len(why) > 3 else ""
    return f"{name} is missing{where}: its answers could not be graded: {why[0][1]}"


def noise_floor(pairs: Sequence[tuple[Sequence[str | None], Sequence[str | None]]]) -> str:
    """What the base's second scoring says: how many answers differ though nothing changed.

    >>> noise_floor([(["a", "b"], ["a", "c"])])
    'noise floor: scored twice, the base gave another answer to 1 of 2 requests (50.00 %)'
    """
    n = sum(len(first) for first, _ in pairs)
    differ = sum(a != b for first, second in pairs for a, b in zip(first, second, strict=True))
    return (
        f"noise floor: scored twice, the base gave another answer to {differ:,} of {n:,} "
        f"requests ({100 * differ / n:.2f} %)"
    )


@dataclass(frozen=True, slots=True)
class Answers:
    """One checkpoint's answers to a task, in sample order; None = no answer was stored."""

    texts: Sequence[str | None]
    """None where the prediction is missing or failed."""
    failed: NDArray[np.bool_]
    signature: str
    settings: str
    masses: Sequence[Mapping[str, float] | None] = ()
    """Probability per token class where the answer begins; None = not measured."""


def grade_benchmark(
    task: Task,
    role: str,
    samples: Sequence[Sample],
    columns: tuple[StageKey, ...],
    answers: Sequence[Answers | None],
    scorers: Sequence[ScorerName],
) -> BenchmarkScores:
    """Scores of one task: `answers[j]` belongs to `columns[j]`; None = the cell is missing."""
    shape = (len(samples), len(columns))
    values = {name: np.full(shape, np.nan) for name in scorers if name in task.scorers}
    status = np.full(shape, MISSING, np.uint8)
    unparsed = np.zeros(shape, bool)
    bare = np.full(shape, np.nan)
    graders = {name: Grader(task.scorers[name], samples) for name in values}
    wordy = [sample.answer_type not in NUMERIC_TYPES for sample in samples]
    for j, column in enumerate(answers):
        if column is None:
            continue
        status[column.failed, j] = FAILED
        for i, text in enumerate(column.texts):
            if text is None:
                continue
            scores = {name: g.grade(samples[i].id, text) for name, g in graders.items()}
            for name, score in scores.items():
                values[name][i, j] = np.nan if score.value is None else score.value
            first = next(iter(scores.values()))
            status[i, j] = NOT_APPLICABLE if first.value is None else SCORED
            unparsed[i, j] = first.parsed is None
            if wordy[i]:
                bare[i, j] = is_bare_number(text)
    rates = {"bare_number": bare} if any(wordy) else {}
    return _assembled(
        task, role, samples, columns, answers, Graded(values, status, unparsed, rates)
    )


@dataclass(frozen=True, slots=True)
class Graded:
    """What grading found, (n_samples, n_columns) each."""

    values: Mapping[Any, NDArray[np.float64]]
    status: NDArray[np.uint8]
    unparsed: NDArray[np.bool_]
    rates: Mapping[str, NDArray[np.float64]]


def lm_eval_benchmark(
    task: Task,
    role: str,
    samples: Sequence[Sample],
    columns: tuple[StageKey, ...],
    answers: Sequence[Answers | None],
    grades: Sequence[Grades | None],
) -> BenchmarkScores:
    """Scores of one of lm-eval's tasks, as lm-eval graded them: `grades[j]` is of `columns[j]`."""
    shape = (len(samples), len(columns))
    values = np.full(shape, np.nan)
    status = np.full(shape, MISSING, np.uint8)
    for j, (answer, grade) in enumerate(zip(answers, grades, strict=True)):
        if answer is None or grade is None or grade.refused:
            continue
        known = grade.values.get(task.metric, {})
        values[:, j] = [known.get(sample.doc["unit"], np.nan) for sample in samples]
        status[:, j] = np.where(np.isnan(values[:, j]), NOT_APPLICABLE, SCORED)
        status[answer.failed, j] = FAILED
    found = Graded({OWN_METRIC: values}, status, np.zeros(shape, bool), {})
    return _assembled(task, role, samples, columns, answers, found)


def _assembled(
    task: Task,
    role: str,
    samples: Sequence[Sample],
    columns: tuple[StageKey, ...],
    answers: Sequence[Answers | None],
    found: Graded,
) -> BenchmarkScores:
    """Grades of samples as scores of the units that the task's headline joins them into."""
    units = Units.of(task.headline, samples)
    return BenchmarkScores(
        benchmark=task.name,
        role=role,
        metric=task.metric,
        sample_ids=np.array([samples[i].id for i in units.first], np.object_),
        groups=units.codes([sample.group or sample.id for sample in samples]),
        weights=units.weights(task.headline, samples),
        chance=np.array([samples[i].chance for i in units.first], np.float64),
        columns=columns,
        values={name: units.join(v, task.headline.combine) for name, v in found.values.items()},
        status=units.worst(found.status),
        unparsed=units.any(found.unparsed),
        rates={
            name: units.join(rate, "mean")
            for name, rate in {**found.rates, **_masses(len(samples), answers)}.items()
        },
        settings=tuple("" if a is None else a.settings for a in answers),
        signatures=tuple("" if a is None else a.signature for a in answers),
    )


def with_rates(
    bench: BenchmarkScores,
    headline: Headline,
    samples: Sequence[Sample],
    columns: Mapping[str, NDArray[np.float64]],
) -> BenchmarkScores:
    """The benchmark with further (n_samples, n_columns) values among its rates."""
    units = Units.of(headline, samples)
    joined = {name: units.join(values, "mean") for name, values in columns.items()}
    return replace(bench, rates={**bench.rates, **joined})


def _masses(n: int, answers: Sequence[Answers | None]) -> dict[str, NDArray[np.float64]]:
    """`<class>_mass` -> (n, n_columns) probabilities of token classes; NaN = not measured."""
    found: dict[str, NDArray[np.float64]] = {}
    for j, column in enumerate(answers):
        for i, masses in enumerate(column.masses if column else ()):
            for name, mass in (masses or {}).items():
                rate = f"{name}_mass"
                if rate not in found:
                    found[rate] = np.full((n, len(answers)), np.nan)
                found[rate][i, j] = mass
    return found


class Units:
    """Which samples are scored as one: rotations of a question, pairs on an image."""

    def __init__(self, keys: Sequence[str]):
        order: dict[str, int] = {}
        self.unit = np.array([order.setdefault(key, len(order)) for key in keys], np.int64)
        self.n = len(order)
        self.first = np.unique(self.unit, return_index=True)[1].tolist()

    @classmethod
    def of(cls, headline: Headline, samples: Sequence[Sample]) -> Units:
        """One unit per sample unless the headline joins them."""
        if headline.unit is None:
            return cls([sample.id for sample in samples])
        return cls([str(sample.doc[headline.unit]) for sample in samples])

    @property
    def _trivial(self) -> bool:
        return self.n == len(self.unit)

    def join(self, values: NDArray[np.float64], combine: str) -> NDArray[np.float64]:
        """(n_samples, k) scores -> (n_units, k); NaN where any member has no score."""
        if self._trivial:
            return values
        count = np.bincount(self.unit, minlength=self.n)[:, None]
        total = np.zeros((self.n, values.shape[1]))
        np.add.at(total, self.unit, values)
        if combine == "mean":
            return total / count
        lowest = np.full((self.n, values.shape[1]), np.inf)
        np.minimum.at(lowest, self.unit, values)
        everything = np.where(np.isnan(total), np.nan, (lowest >= 1).astype(float))
        return everything if combine == "all" else (total / count + everything) / 2

    def known_mean(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n_samples, k) values -> (n_units, k) means of the members that have one."""
        if self._trivial:
            return values
        known = np.isfinite(values)
        total, count = (np.zeros((self.n, values.shape[1])) for _ in range(2))
        np.add.at(total, self.unit, np.where(known, values, 0.0))
        np.add.at(count, self.unit, known)
        return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)

    def worst(self, status: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(n_samples, k) -> (n_units, k): a unit is scored only if all its members are."""
        if self._trivial:
            return status
        rank = np.array([0, 3, 1, 2], np.uint8)  # missing, failed, not applicable, scored
        back = np.array([MISSING, FAILED, NOT_APPLICABLE, SCORED], np.uint8)
        lowest = np.full((self.n, status.shape[1]), 3, np.uint8)
        np.minimum.at(lowest, self.unit, rank[status])
        return back[lowest]

    def any(self, flags: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """(n_samples, k) -> (n_units, k)."""
        joined = np.zeros((self.n, flags.shape[1]), bool)
        np.logical_or.at(joined, self.unit, flags)
        return joined

    def codes(self, groups: Sequence[str]) -> NDArray[np.int64]:
        """(n_units,) cluster codes in order of first appearance."""
        seen: dict[str, int] = {}
        return np.array([seen.setdefault(groups[i], len(seen)) for i in self.first], np.int64)

    def weights(self, headline: Headline, samples: Sequence[Sample]) -> NDArray[np.float64]:
        """(n_units,) mean 1; under a macro mean each category weighs the same."""
        if headline.macro is None:
            return np.ones(self.n)
        names = [str(samples[i].doc[headline.macro]) for i in self.first]
        size = {name: names.count(name) for name in set(names)}
        return np.array([self.n / (len(size) * size[name]) for name in names])


class StoredTexts:
    """Questions, gold answers and responses, read when one is shown."""

    def __init__(self, store: Store, record: Mapping[str, Any]):
        self._store = store
        self._data = {row["name"]: row["data"] for row in record["benchmarks"]}
        self._metrics = {row["name"]: row.get("metric", "") for row in record["benchmarks"]}
        self._cells = {_stage(row).key: row["cells"] for row in record["stages"]}
        self._samples: dict[str, dict[str, Sample]] = {}
        self._texts: dict[tuple[str, str], dict[str, str]] = {}

    def _sample(self, benchmark: str, sample_id: str) -> Sample:
        if benchmark not in self._samples:
            rows = self._store.read_samples(benchmark, self._data[benchmark])
            self._samples[benchmark] = {row.id: row for row in rows}
        return self._samples[benchmark][sample_id]

    def question(self, benchmark: str, sample_id: str) -> str:
        return self._sample(benchmark, sample_id).question

    def gold(self, benchmark: str, sample_id: str) -> str:
        return " / ".join(dict.fromkeys(self._sample(benchmark, sample_id).answers))

    def response(self, key: StageKey, benchmark: str, sample_id: str) -> str:
        cell = self._cells[key][benchmark]
        if (benchmark, cell) not in self._texts:
            table = self._store.read_cell(benchmark, cell)[0].select(
                ["sample_id", "text", "choice_scores"]
            )
            rows = {row["sample_id"]: row for row in table.to_pylist()}
            self._texts[benchmark, cell] = {
                name: self._said(benchmark, name, rows) for name in rows
            }
        return self._texts[benchmark, cell][sample_id]

    def _said(self, benchmark: str, name: str, rows: Mapping[str, Mapping[str, Any]]) -> str:
        """One answer; of options the one that the benchmark's metric takes."""
        row, sample = rows[name], self._sample(benchmark, name)
        scores = row["choice_scores"]
        if scores and is_lm_eval(benchmark):
            # lm-eval asks for the options without the question after those with it.
            alone = rows.get(f"{name}.1", {}).get("choice_scores")
            scores = choosing_scores(self._metrics[benchmark], sample, scores, alone)
        return chosen(row["text"], scores, _continuations(benchmark, sample))


def _stage(row: Mapping[str, Any]) -> Stage:
    return Stage(
        StageKey(row["strategy"], row["run"], row["stage"]), row["name"], row["trained_on"]
    )


def choosing_scores(
    metric: str, sample: Sample, scores: Sequence[float], alone: Sequence[float] | None
) -> Sequence[float]:
    """Scores of options of which the largest is the one that a metric of lm-eval's chooses.

    `alone`: of the same options without the question, where they were asked for.
    """
    name, skip = metric.partition(",")[0], sample.doc.get("delimiter")
    if not isinstance(skip, int) or len(sample.choices) != len(scores):
        return scores
    options = [choice[skip:] for choice in sample.choices]
    if name == "acc_norm":
        return _per_length(scores, [len(option) for option in options])
    if name == "acc_bytes":
        return _per_length(scores, [len(option.encode()) for option in options])
    if name == "acc_mutual_info" and alone and len(alone) == len(scores):
        return [score - other for score, other in zip(scores, alone, strict=True)]
    return scores


def _per_length(scores: Sequence[float], lengths: Sequence[int]) -> list[float]:
    return [s / n if n else -np.inf for s, n in zip(scores, lengths, strict=True)]


def _continuations(task: str, sample: Sample) -> Sequence[str]:
    """What one of lm-eval's tasks compares where its options have no letters."""
    return sample.choices if is_lm_eval(task) and sample.answer_type != "letter" else ()


def _answers(
    store: Store, task: str, cell: str | None, samples: Sequence[Sample]
) -> Answers | None:
    if cell is None or not store.is_sealed(task, cell):
        return None
    table, metadata = store.read_cell(task, cell)
    rows = {row["sample_id"]: row for row in table.to_pylist()}
    found = [rows.get(sample.id) for sample in samples]
    texts = [
        chosen(row["text"], row["choice_scores"], _continuations(task, sample))
        if row and row["status"] == "ok"
        else None
        for sample, row in zip(samples, found, strict=True)
    ]
    failed = np.array([row is not None and row["status"] != "ok" for row in found], np.bool_)
    signature = metadata["signature"]
    settings = {k: v for k, v in signature.items() if k not in MODEL_KEYS}
    masses = [dict(row["class_mass"] or ()) if row else None for row in found]
    return Answers(texts, failed, signature_text(signature), signature_text(settings), masses)
