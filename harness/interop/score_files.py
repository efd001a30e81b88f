"""Score files: other people's graded answers, kept as a study of their own.

`forgeteval import` turns a JSONL, CSV or Parquet file with the columns strategy, stage (0 = base),
benchmark, sample_id, score (and optional run, stage_name, trained_on, role, group, question,
response, gold, scorer) into `results/<study>/`:

    study.json        {"schema": 1, "kind": "imported", "study": ..., "source": ..., ...}
    imported.parquet  the rows, one row group per benchmark, names as dictionary columns

The logs of other evaluators (`harness.interop.logs`) are kept in the same way; their study.json has
further keys: `scorer` (whose scores the study is judged by), `settings` (benchmark -> how its
numbers were made), `notes`, `logs` (stage -> folder) and `dates` (stage -> benchmark -> run taken).

Everything downstream reads it through `read_imported`. The words (question, response, gold) stay
on the disk until a report shows them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from harness.analysis.scores import (
    BASE,
    DEFAULT_SCORER,
    FAILED,
    MISSING,
    SCORED,
    BenchmarkScores,
    Stage,
    StageKey,
    StudyScores,
)
from harness.errors import ResultsError
from harness.interop.score_rows import DEFAULTS, NAMES, ScoreRows, joint_codes, read_rows
from harness.interop.score_tables import TEXTS
from harness.interop.score_traits import with_imported_traits
from harness.names import check_name
from harness.storage.result_files import read_json

KIND = "imported"
SCHEMA_VERSION = 1
STUDY_FILE = "study.json"
ROWS_FILE = "imported.parquet"
_ROLE_ORDER = {"target": 0, "held_out": 1, "probe": 2}
# Benchmarks whose words are held in memory while flips are shown.
_TEXTS_KEPT = 4


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did, for the person who asked for it."""

    study: str
    folder: Path
    n_rows: int
    n_failed: int
    """Rows with an empty score."""
    strategies: tuple[str, ...]
    benchmarks: Mapping[str, str]
    """name -> role."""
    scorers: tuple[str, ...]
    ignored: tuple[str, ...]
    """Columns of the file that were left aside."""


def import_scores(
    file: Path, study: str, results: Path, *, base_model: str = "", replace: bool = False
) -> Imported:
    """Check `file` and keep it as `results/<study>/`: the whole study appears at once or not.

    Raises ResultsError: a bad study name, a study that is there already (a study with predictions
    is never replaced, an imported one only with `replace`), or everything wrong with the file.
    """
    folder = free_folder(results, study, replace=replace)
    rows = read_rows(file)
    facts = {
        "schema": SCHEMA_VERSION,
        "kind": KIND,
        "study": study,
        "base_model": base_model,
        "source": file.name,
        "source_sha256": _sha256(file),
        "n_rows": len(rows),
    }
    try:
        write_study(folder, rows, facts)
    except OSError as error:
        raise ResultsError(str(folder), f"cannot be written: {error.strerror or error}") from error
    benchmark, role = rows.names["benchmark"], rows.names["role"]
    pairs = np.unique(np.stack([benchmark.codes, role.codes]), axis=1)
    return Imported(
        study=study,
        folder=folder,
        n_rows=len(rows),
        n_failed=int(np.isnan(rows.score).sum()),
        strategies=tuple(str(word) for word in rows.names["strategy"].words if word != BASE),
        benchmarks={str(benchmark.words[b]): str(role.words[r]) for b, r in pairs.T},
        scorers=tuple(str(word) for word in rows.names["scorer"].words),
        ignored=rows.ignored,
    )


def free_folder(results: Path, study: str, *, replace: bool) -> Path:
    """Where the study will lie."""
    try:
        folder = results / check_name(study)
    except ValueError as error:
        raise ResultsError("study name", str(error)) from None
    if not folder.exists():
        return folder
    kind = read_json(folder / STUDY_FILE).get("kind") if (folder / STUDY_FILE).is_file() else ""
    if kind != KIND:
        raise ResultsError(
            str(folder), "is there and is no imported study. Cure: choose another --study name"
        )
    if not replace:
        raise ResultsError(
            str(folder),
            "this study is there already. Cure: --replace, or choose another --study name",
        )
    return folder


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_study(folder: Path, rows: ScoreRows, facts: Mapping[str, Any]) -> None:
    """Write aside, then rename; an older import of that name goes only when the new one stands."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = folder.with_name(f".{folder.name}.new-{os.getpid()}")
    old = folder.with_name(f".{folder.name}.old-{os.getpid()}")
    try:
        aside.mkdir()
        _write_rows(aside / ROWS_FILE, rows)
        text = json.dumps(facts, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        (aside / STUDY_FILE).write_text(text, encoding="utf-8")
        if folder.exists():
            folder.rename(old)
        aside.rename(folder)
    finally:
        if old.exists() and not folder.exists():
            old.rename(folder)
        shutil.rmtree(aside, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _write_rows(file: Path, rows: ScoreRows) -> None:
    """Rows sorted by benchmark, one row group each, so that one benchmark can be read alone."""
    columns: dict[str, Any] = {
        name: pa.DictionaryArray.from_arrays(
            pa.array(column.codes.astype(np.int32)), pa.array(column.words, pa.string())
        )
        for name, column in rows.names.items()
    }
    columns["stage"] = pa.array(rows.stage.astype(np.int32))
    columns["score"] = pa.array(rows.score, from_pandas=True)
    columns |= rows.texts
    benchmark = rows.names["benchmark"]
    # Row order means nothing in a score file, so it is made not to matter here.
    keys = [rows.names[name].codes for name in ("scorer", "sample_id", "run", "strategy")]
    order = np.lexsort([rows.stage, *keys, benchmark.codes])
    table = pa.table(columns)
    bounds = np.searchsorted(benchmark.codes[order], np.arange(len(benchmark.words) + 1))
    with pq.ParquetWriter(file, table.schema, compression="zstd") as writer:
        for low, high in pairwise(bounds):
            if high > low:
                block = table.take(pa.array(order[low:high]))
                writer.write_table(block, row_group_size=int(high - low))


# --- reading -------------------------------------------------------------------------------------


def read_imported(folder: Path, *, traits: bool = False) -> StudyScores:
    """The scores of an imported study; fewer than ten seconds for three million rows.

    A cell with no rows is MISSING, a row without a score FAILED. `traits`: the rates hold all
    traits of the responses, where the study has any. Raises ResultsError for a folder that is no
    imported study.
    """
    facts = read_json(folder / STUDY_FILE)
    if facts.get("kind") != KIND or facts.get("schema") != SCHEMA_VERSION:
        raise ResultsError(
            f"{folder.name}/{STUDY_FILE}",
            f"got kind {facts.get('kind')!r}, schema {facts.get('schema')!r}; "
            f"expected {KIND!r}, {SCHEMA_VERSION}. Cure: import the score file again",
        )
    file = folder / ROWS_FILE
    names = [*NAMES, "scorer"]
    try:
        table = pq.read_table(file, columns=[*names, "stage", "score"], read_dictionary=names)
        frame = table.to_pandas(self_destruct=True, split_blocks=True)
    except FileNotFoundError as error:
        raise ResultsError(f"{folder.name}/{ROWS_FILE}", "is missing") from error
    except (OSError, pa.ArrowException, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ResultsError(f"{folder.name}/{ROWS_FILE}", f"cannot be read: {reason}") from error
    for name in (column for column in names if column not in ("sample_id", "group")):
        if not all(str(word).isprintable() for word in frame[name].cat.categories):
            text = f"column {name} holds a name that cannot be shown. Cure: import the file again"
            raise ResultsError(f"{folder.name}/{ROWS_FILE}", text)
    stages, column = _stages(frame)
    said = facts.get("settings")
    settings = said if isinstance(said, dict) else {}
    benchmarks = _benchmarks(frame, tuple(stage.key for stage in stages), column, settings)
    if traits:
        benchmarks = {name: with_imported_traits(bench, file) for name, bench in benchmarks.items()}
    notes = facts.get("notes")
    return StudyScores(
        study=str(facts.get("study", folder.name)),
        base_model=str(facts.get("base_model", "")),
        stages=stages,
        benchmarks={name: benchmarks[name] for name in _suite_order(benchmarks, stages)},
        texts=_Texts(file),
        notes=tuple(map(str, notes)) if isinstance(notes, list) else (),
        scorer=str(facts.get("scorer", DEFAULT_SCORER)),
    )


def _stages(frame: pd.DataFrame) -> tuple[tuple[Stage, ...], NDArray[np.int64]]:
    """(stages in order: base, then by strategy, run, number; (n,) the stage of each row)."""
    code, n_codes = joint_codes(
        frame["strategy"].cat.codes.to_numpy(),
        frame["run"].cat.codes.to_numpy(),
        frame["stage"].to_numpy(),
    )
    first = np.full(n_codes, -1, np.int64)
    first[code[::-1]] = np.arange(len(code))[::-1]
    trained = np.full(n_codes, "", object)
    said = (frame["trained_on"] != "").to_numpy()
    trained[code[said]] = frame["trained_on"].to_numpy()[said]
    stages = []
    for i, row in enumerate(frame.iloc[first].itertuples()):
        run = DEFAULTS["run"] if row.strategy == BASE else str(row.run)
        key = StageKey(str(row.strategy), run, int(str(row.stage)))
        stages.append(Stage(key, str(row.stage_name), trained[i] or None))

    def place(i: int) -> tuple[bool, list[tuple[int, str]], list[tuple[int, str]], int]:
        key = stages[i].key
        return key.strategy != BASE, _natural(key.strategy), _natural(key.run), key.stage

    order = sorted(range(n_codes), key=place)
    rank = np.empty(n_codes, np.int64)
    rank[order] = np.arange(n_codes)
    return tuple(stages[i] for i in order), rank[code]


def _natural(word: str) -> list[tuple[int, str]]:
    """Sort key under which run 2 comes before run 10."""
    parts = re.findall(r"[0-9]+|[^0-9]+", word)
    return [
        (int(part), "") if part.isdecimal() and len(part) < 18 else (-1, part) for part in parts
    ]


def _suite_order(benchmarks: Mapping[str, BenchmarkScores], stages: tuple[Stage, ...]) -> list[str]:
    """Targets in the order they were trained, then held-out benchmarks, then probes."""
    trained = [stage.trained_on for stage in stages]

    def place(name: str) -> tuple[int, int, list[tuple[int, str]]]:
        when = trained.index(name) if name in trained else len(trained)
        return _ROLE_ORDER[benchmarks[name].role], when, _natural(name)

    return sorted(benchmarks, key=place)


def _benchmarks(
    frame: pd.DataFrame,
    keys: tuple[StageKey, ...],
    column: NDArray[np.int64],
    settings: Mapping[str, Any],
) -> dict[str, BenchmarkScores]:
    """One matrix per benchmark and scorer, filled in one assignment each.

    `settings`: benchmark -> what the file says of how its numbers were made.
    """
    codes = {name: frame[name].cat.codes.to_numpy() for name in ("sample_id", "scorer", "group")}
    words = {name: frame[name].cat.categories.to_numpy() for name in (*codes, "role")}
    score = frame["score"].to_numpy()
    benchmark = frame["benchmark"].cat.codes.to_numpy()
    order = np.argsort(benchmark, kind="stable")
    found = frame["benchmark"].cat.categories
    bounds = np.searchsorted(benchmark[order], np.arange(len(found) + 1))
    role = frame["role"].cat.codes.to_numpy()
    result = {}
    for i, name in enumerate(found):
        rows = order[bounds[i] : bounds[i + 1]]
        if not len(rows):
            continue
        sample, ids = pd.factorize(codes["sample_id"][rows], sort=True)
        shape = (len(ids), len(keys))
        status = np.full(shape, MISSING, np.uint8)
        place = (sample, column[rows])
        failed = np.isnan(score[rows])
        status[place[0][failed], place[1][failed]] = FAILED
        status[place[0][~failed], place[1][~failed]] = SCORED
        values = {}
        for j, scorer in enumerate(words["scorer"]):
            here = codes["scorer"][rows] == j
            if here.any():
                matrix = np.full(shape, np.nan)
                matrix[place[0][here], place[1][here]] = score[rows][here]
                values[str(scorer)] = matrix
        result[str(name)] = BenchmarkScores(
            benchmark=str(name),
            role=str(words["role"][role[rows[0]]]),
            metric="score",
            sample_ids=words["sample_id"][ids].astype(object),
            groups=_groups(sample, len(ids), codes["group"][rows], words["group"]),
            weights=np.ones(len(ids)),
            chance=np.full(len(ids), np.nan),  # nothing in a score file tells it
            columns=keys,
            values=values,
            status=status,
            unparsed=np.zeros(shape, bool),
            settings=(_settings(words["sample_id"][ids], settings.get(str(name))),) * len(keys),
            signatures=tuple(f"{KIND}:{key.strategy}/{key.run}@{key.stage}" for key in keys),
        )
    return result


def _settings(sample_ids: NDArray[np.object_], said: object = None) -> str:
    """What is known of how the numbers were made: that they came in a file, for which samples."""
    digest = hashlib.sha256("\n".join(sample_ids).encode()).hexdigest()
    text = f"kind:{KIND}|n:{len(sample_ids)}|samples:{digest[:16]}"
    return f"{text}|{said}" if isinstance(said, str) else text


def _groups(
    sample: NDArray[np.int64], n_samples: int, group: NDArray[Any], words: NDArray[np.object_]
) -> NDArray[np.int64]:
    """(n_samples,) cluster codes; a sample of no named group is a group of its own."""
    named = words[group] != ""
    code = np.arange(n_samples) + len(words)
    code[sample[named]] = group[named]
    return pd.factorize(code)[0].astype(np.int64)


@dataclass(slots=True)
class _Texts:
    """The words of an imported study, one benchmark read at a time. "" where the file has none."""

    file: Path
    _kept: OrderedDict[str, Any] = field(default_factory=OrderedDict)

    def question(self, benchmark: str, sample_id: str) -> str:
        return self._find("question", benchmark, sample_id, None)

    def gold(self, benchmark: str, sample_id: str) -> str:
        return self._find("gold", benchmark, sample_id, None)

    def response(self, key: StageKey, benchmark: str, sample_id: str) -> str:
        return self._find("response", benchmark, sample_id, key)

    def _find(self, column: str, benchmark: str, sample_id: str, key: StageKey | None) -> str:
        """The first non-empty word of the sample's rows (of `key`'s rows, if given)."""
        table = self._table(benchmark)
        if column not in table.column_names:
            return ""
        rows = table.filter(pc.equal(table["sample_id"], sample_id))
        if key is not None:
            mask = pc.and_(
                pc.equal(rows["strategy"], key.strategy), pc.equal(rows["stage"], key.stage)
            )
            if key.strategy != BASE:
                mask = pc.and_(mask, pc.equal(rows["run"], key.run))
            rows = rows.filter(mask)
        return next((text for text in rows[column].to_pylist() if text), "")

    def _table(self, benchmark: str) -> Any:
        if benchmark not in self._kept:
            try:
                self._kept[benchmark] = self._read(benchmark)
            except (OSError, pa.ArrowException) as error:
                reason = " ".join(str(error).split())[:200]
                raise ResultsError(self.file.name, f"cannot be read: {reason}") from error
            if len(self._kept) > _TEXTS_KEPT:
                self._kept.popitem(last=False)
        return self._kept[benchmark]

    def _read(self, benchmark: str) -> Any:
        with pq.ParquetFile(self.file) as file:
            present = [name for name in TEXTS if name in file.schema_arrow.names]
        return pq.read_table(
            self.file,
            columns=["strategy", "run", "stage", "sample_id", *present],
            filters=[("benchmark", "=", benchmark)],
        )
