"""Score rows: a score table whose every row is known to mean something.

One row = one answer of one checkpoint, graded. Checked here, all problems in one error that names
the rows: whole stages, scores in [0, 1], one role per benchmark, one group per sample, a base for
every run, nothing twice. An empty score (NaN) is a failed answer, never a zero.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from harness.analysis.scores import BASE
from harness.errors import Problem, ResultsError, did_you_mean
from harness.interop.score_tables import TEXTS, ScoreTable, read_table, slip
from harness.types import HELD_OUT_MEAN, MEAN

ROLES = ("target", "held_out", "probe")
DEFAULTS = {"run": "0", "scorer": "logged"}
NAMES = ("strategy", "run", "stage_name", "trained_on", "benchmark", "role", "sample_id", "group")
_EMPTY_SCORES = ("", "nan", "null", "none", "na", "n/a")
_MAX_STAGE = 100_000
_SHOWN_ROWS = 4
Rows = NDArray[np.bool_]


class Shown(Protocol):
    """What stands in a column, row by row."""

    def __getitem__(self, row: int, /) -> Any: ...


@dataclass(frozen=True, slots=True)
class Words:
    """A column of words: `words[codes[i]]` is the word of row i ("" where the file has none)."""

    codes: NDArray[np.int64]
    """(n,) index into `words`."""
    words: NDArray[np.object_]
    """Sorted and unique."""

    def __getitem__(self, row: int) -> str:
        return str(self.words[self.codes[row]])

    def among(self, *words: str) -> Rows:
        """(n,) true where a row has one of `words`."""
        return np.asarray(np.isin(self.words, words)[self.codes])

    @staticmethod
    def of(values: NDArray[np.object_], codes: NDArray[np.int64]) -> Words:
        """Row i has the word `values[codes[i]]`, which may repeat and need no order."""
        unique, order = np.unique(values.astype(str), return_inverse=True)
        return Words(order[codes].astype(np.int64), unique.astype(object))


@dataclass(frozen=True, slots=True)
class ScoreRows:
    """Checked rows, column by column."""

    names: dict[str, Words]
    """One for each of NAMES and for `scorer`; roles and stage names filled in."""
    stage: NDArray[np.int64]
    score: NDArray[np.float64]
    """(n,) in [0, 1], NaN = the answer failed."""
    texts: dict[str, Any]
    """question, response, gold as Arrow `large_string` arrays, where the file has them."""
    ignored: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.stage)


def read_rows(path: Path) -> ScoreRows:
    """Read and check a score file (.jsonl, .csv or .parquet); n rows, at least one.

    Raises one ResultsError with everything that is wrong.
    """
    table = read_table(path)
    if not len(table.numbers):
        raise ResultsError(str(path), "no rows; expected one row per graded answer")
    check = _Check(table)
    stage = check.stages()
    score = check.scores()
    names = {name: check.words(name) for name in (*NAMES, "scorer")}
    if not check.problems:
        _check_meaning(check, names, stage)
    if check.problems:
        raise ResultsError(str(path), check.problems)
    names["role"] = _roles(names)
    names["stage_name"] = _stage_names(names, stage)
    texts = {name: table.columns[name] for name in TEXTS if name in table.columns}
    return ScoreRows(names, stage, score, texts, table.ignored)


@dataclass(slots=True)
class _Check:
    """A table under examination: gathers problems, each with the rows it concerns."""

    table: ScoreTable
    problems: list[Problem] = field(default_factory=list)

    def rows(self, mask: Rows, shown: Shown | None = None) -> str:
        """`lines 3 (1.5), 8 (-2) and 12 more`: where `mask` is true."""
        where = np.flatnonzero(mask)
        parts = [
            f"{self.table.numbers[i]}" + ("" if shown is None else f" ({str(shown[i])[:40]!r})")
            for i in where[:_SHOWN_ROWS]
        ]
        rest = len(where) - len(parts)
        noun = self.table.noun + ("s" if len(where) > 1 else "")
        if rest:
            return f"{noun} {', '.join(parts)} and {rest:,} more"
        return f"{noun} {' and '.join([', '.join(parts[:-1]), parts[-1]] if parts[1:] else parts)}"

    def add(self, place: str, what: str, mask: Rows, shown: Shown | None = None) -> None:
        """Note a problem if `mask` is true anywhere; `{rows}` in `what` becomes the rows."""
        if mask.any():
            self.problems.append(Problem(place, what.replace("{rows}", self.rows(mask, shown))))

    def words(self, name: str) -> Words:
        """A column of names, stripped of spaces (ids are kept as they are); "" where absent."""
        n = len(self.table.numbers)
        if name not in self.table.columns:
            return Words(np.zeros(n, np.int64), np.array([DEFAULTS.get(name, "")], object))
        encoded = pc.fill_null(_one_chunk(self.table.columns[name]), "").dictionary_encode()
        words = np.array(encoded.dictionary.to_pylist(), object)
        if name != "sample_id":
            words = np.array([word.strip() or DEFAULTS.get(name, "") for word in words], object)
        found = Words.of(words, encoded.indices.to_numpy(zero_copy_only=False))
        if name in ("strategy", "benchmark", "sample_id"):
            self.add(f"column {name}", "empty in {rows}", found.among(""))
        return found

    def _numbers(self, name: str) -> tuple[NDArray[np.float64], Rows, Shown]:
        """(values with NaN for empty, which are no numbers, what stands there)."""
        column = _one_chunk(self.table.columns[name])
        if pa.types.is_floating(column.type):
            values = column.to_numpy(zero_copy_only=False)
            return values, np.zeros(len(values), bool), values
        # Few different words, usually: read each once.
        encoded = pc.fill_null(column, "").dictionary_encode()
        words = np.array(encoded.dictionary.to_pylist(), object)
        read = [_number(word) for word in words]
        codes = encoded.indices.to_numpy(zero_copy_only=False)
        values = np.array([np.nan if value is None else value for value in read], float)
        bad = np.array([value is None for value in read], bool)
        return values[codes], bad[codes], words[codes]

    def stages(self) -> NDArray[np.int64]:
        """(n,) stage numbers; 0 where wrong, with the problem noted."""
        values, bad, shown = self._numbers("stage")
        wrong = bad | ~np.isfinite(values)
        wrong[~wrong] = (values[~wrong] % 1 != 0) | (values[~wrong] < 0)
        wrong[~wrong] |= values[~wrong] > _MAX_STAGE
        self.add(
            "column stage", "expected a whole number from 0 (the base), got {rows}", wrong, shown
        )
        stages: NDArray[np.int64] = np.where(wrong, 0, values).astype(np.int64)
        return stages

    def scores(self) -> NDArray[np.float64]:
        """(n,) scores; problems noted for what is no fraction."""
        values, bad, shown = self._numbers("score")
        self.add("column score", "expected a number, got {rows}", bad, shown)
        with np.errstate(invalid="ignore"):
            outside = (values < 0) | (values > 1)
        cure = ""
        if outside.any():
            known = values[~np.isnan(values)]
            fractions = (known > 0) & (known < 1)
            percents = known.min() >= 0 and known.max() <= 100 and outside.sum() > fractions.sum()
            cure = ". These look like percents. Cure: divide the column by 100" if percents else ""
        self.add("column score", "outside [0, 1] in {rows}" + cure, outside, shown)
        return values


def _number(word: str) -> float | None:
    """A word as a number, NaN where it says "empty", None where it is none."""
    text = word.strip().lower()
    if text in _EMPTY_SCORES:
        return float("nan")
    if text in ("true", "false"):
        return float(text == "true")
    if not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?inf(inity)?", text, re.ASCII):
        return None
    return float(text)


def _one_chunk(column: Any) -> Any:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def joint_codes(*columns: NDArray[Any]) -> tuple[NDArray[np.int64], int]:
    """(codes (n,) from 0 that are equal where all `columns` are, how many there are)."""
    codes = pd.factorize(columns[0])[0].astype(np.int64)
    for column in columns[1:]:
        further = pd.factorize(column)[0].astype(np.int64)
        # Both factors are at most n, so the product fits.
        codes = pd.factorize(codes * (int(further.max()) + 1) + further)[0].astype(np.int64)
    return codes, int(codes.max()) + 1


def _conflicts(key: NDArray[np.int64], n_keys: int, words: Words) -> Rows:
    """(n,) true for rows whose word differs from another (non-empty) word of the same key."""
    said = ~words.among("")
    high = np.full(n_keys, -1, np.int64)
    low = np.full(n_keys, len(words.words), np.int64)
    np.maximum.at(high, key[said], words.codes[said])
    np.minimum.at(low, key[said], words.codes[said])
    return np.asarray(said & (high[key] != low[key]))


# --- what the rows say together ------------------------------------------------------------------


def _check_meaning(check: _Check, names: dict[str, Words], stage: NDArray[np.int64]) -> None:
    """Everything that needs more than one cell to be seen."""
    _check_names(check, names)
    _check_roles(check, names)
    _check_trained_on(check, names, stage)
    _check_bases(check, names, stage)
    step, n_steps = joint_codes(names["strategy"].codes, names["run"].codes, stage)
    for name in ("stage_name", "trained_on"):
        check.add(
            f"column {name}",
            "one stage of one run has several: {rows}",
            _conflicts(step, n_steps, names[name]),
            names[name],
        )
    sample, n_samples = joint_codes(names["benchmark"].codes, names["sample_id"].codes)
    check.add(
        "column group",
        "one sample has several groups: {rows}",
        _conflicts(sample, n_samples, names["group"]),
        names["group"],
    )
    _check_texts(check, sample, n_samples)
    answer, n_answers = joint_codes(step, sample, names["scorer"].codes)
    if n_answers < len(answer):
        twice = np.bincount(answer, minlength=n_answers)[answer] > 1
        check.add(
            "duplicates",
            "the same strategy, run, stage, benchmark, sample_id and scorer in {rows}. "
            "Cure: keep one row per answer, or tell runs apart in a column `run`",
            twice,
            names["sample_id"],
        )


def _check_names(check: _Check, names: dict[str, Words]) -> None:
    """Names that are taken, or that a terminal would obey instead of showing them."""
    for column, taken in (("benchmark", HELD_OUT_MEAN), ("run", MEAN)):
        check.add(
            f"column {column}",
            f"{taken!r} is what tables call a mean: {{rows}}. Cure: another name",
            names[column].among(taken),
        )
    for column in ("strategy", "run", "stage_name", "trained_on", "benchmark", "scorer"):
        hidden = [word for word in names[column].words if not str(word).isprintable()]
        check.add(
            f"column {column}",
            "a name with characters that cannot be shown (controls, text direction): {rows}",
            names[column].among(*hidden),
            names[column],
        )


def _check_texts(check: _Check, sample: NDArray[np.int64], n_samples: int) -> None:
    """Checkpoints that did not answer the same questions cannot be compared."""
    for column in ("question", "gold"):
        if column in check.table.columns:
            words = check.words(column)
            check.add(
                f"column {column}",
                f"one sample has several {column}s: {{rows}}. "
                "Cure: give samples of different questions different ids",
                _conflicts(sample, n_samples, words),
                words,
            )


def _check_roles(check: _Check, names: dict[str, Words]) -> None:
    role, benchmark = names["role"], names["benchmark"]
    for code, word in enumerate(role.words):
        if word and word not in ROLES:
            check.add(
                "column role",
                f"unknown role {word[:40]!r} in {{rows}}; expected one of {', '.join(ROLES)}"
                + did_you_mean(word, ROLES),
                role.codes == code,
            )
    check.add(
        "column role",
        "one benchmark has several roles: {rows}",
        _conflicts(benchmark.codes, len(benchmark.words), role),
        role,
    )


def _check_trained_on(check: _Check, names: dict[str, Words], stage: NDArray[np.int64]) -> None:
    trained, benchmark, role = names["trained_on"], names["benchmark"], names["role"]
    known = [str(word) for word in benchmark.words]
    for code, word in enumerate(trained.words):
        # A target that was trained but not scored is fine; a misspelt one is not.
        if word and word not in known and (near := slip(word, known)):
            check.add(
                "column trained_on",
                f"no benchmark {word[:40]!r} in the file; did you mean {near!r}? ({{rows}})",
                trained.codes == code,
            )
    check.add(
        "column trained_on",
        "stage 0 is the base and was trained on nothing: {rows}. Cure: leave it empty there",
        (stage == 0) & ~trained.among(""),
        trained,
    )
    targets = np.isin(benchmark.words, trained.words[trained.words != ""])
    check.add(
        "column role",
        "held_out, but a stage was trained on that benchmark: {rows}. "
        "Cure: give it the role target, or leave the role empty",
        targets[benchmark.codes] & role.among("held_out"),
        benchmark,
    )


def _check_bases(check: _Check, names: dict[str, Words], stage: NDArray[np.int64]) -> None:
    strategy, run = names["strategy"], names["run"]
    is_base = strategy.among(BASE)
    check.add(
        "column stage",
        f"strategy {BASE!r} is the model before tuning, so its stage is 0; got {{rows}}",
        is_base & (stage != 0),
        stage,
    )
    base_runs = run.words[np.unique(run.codes[is_base])]
    if len(base_runs) > 1:
        check.add(
            "column run",
            f"strategy {BASE!r} has several runs: {{rows}}. Cure: give one, "
            "or repeat stage 0 under each strategy and run",
            is_base & (run.codes != run.codes[is_base][0]),
            run,
        )
    if is_base.any():
        return
    tuned, n_tuned = joint_codes(strategy.codes, run.codes)
    has_base = np.zeros(n_tuned, bool)
    has_base[tuned[stage == 0]] = True
    check.add(
        "base",
        "a stage without a base: no stage 0 for the strategy and run of {rows}. "
        f"Cure: add rows with strategy {BASE!r} and stage 0, or stage 0 under each strategy",
        ~has_base[tuned],
        strategy,
    )


# --- what a file may leave out -------------------------------------------------------------------


def _roles(names: dict[str, Words]) -> Words:
    """Role per row: as given for the benchmark, else target if trained on, else held_out."""
    benchmark, role, trained = names["benchmark"], names["role"], names["trained_on"]
    given = np.full(len(benchmark.words), "", object)
    said = ~role.among("")
    given[benchmark.codes[said]] = role.words[role.codes[said]]
    targets = np.isin(benchmark.words, trained.words[trained.words != ""])
    full = np.where(given != "", given, np.where(targets, "target", "held_out")).astype(object)
    return Words.of(full, benchmark.codes)


def _stage_names(names: dict[str, Words], stage: NDArray[np.int64]) -> Words:
    """Stage name per row: as given for the stage, else what it was trained on, else `stage 2`."""
    step, n_steps = joint_codes(names["strategy"].codes, names["run"].codes, stage)
    full = np.full(n_steps, "", object)
    for name in ("trained_on", "stage_name"):
        column = names[name]
        said = ~column.among("")
        full[step[said]] = column.words[column.codes[said]]
    number = np.zeros(n_steps, np.int64)
    number[step] = stage
    for i in np.flatnonzero(full == ""):
        full[i] = BASE if number[i] == 0 else f"stage {number[i]}"
    return Words.of(full, step)
