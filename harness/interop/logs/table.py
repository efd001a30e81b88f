"""The table of an import: every score of every task, as the rows of a score file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from harness.errors import Problem
from harness.interop.logs.names import NamedStage
from harness.interop.logs.pairing import PairedTask, TaskLog
from harness.interop.logs.regrade import Regraded
from harness.interop.score_rows import DEFAULTS, NAMES, ScoreRows, Words

LOGGED = DEFAULTS["scorer"]


@dataclass(slots=True)
class Table:
    """The rows of the study, gathered block by block: one per task, stage and scorer."""

    stages: tuple[NamedStage, ...]
    roles: Mapping[str, str]
    """task -> role."""
    settings: dict[str, str] = field(default_factory=dict)
    """task -> how its numbers were made."""
    dates: dict[str, dict[str, str]] = field(default_factory=dict)
    """stage -> task -> date of the run that was taken."""
    n_logged: int = 0
    n_failed: int = 0
    _blocks: list[dict[str, Any]] = field(default_factory=list)
    _texts: list[pa.Table] = field(default_factory=list)

    def add(self, paired: PairedTask, graded: Regraded) -> None:
        """All scores of one task."""
        self.settings[paired.task] = _settings(paired)
        ids = np.array(paired.documents.ids, object)
        groups = np.array([f"{paired.task}/{g}" if g else "" for g in graded.groups], object)
        for k, log in enumerate(paired.logs()):
            self.dates.setdefault(log.stage.label, {})[paired.task] = log.date
            logged = np.array(log.answers.scores, float)
            self.n_logged += len(logged)
            self.n_failed += int(np.isnan(logged).sum())
            self._block(paired.task, log, LOGGED, ids, groups, logged)
            self._texts.append(_words(log.answers.responses, graded if k == 0 else None))
            for scorer, columns in graded.scores.items():
                scores = np.array(columns[k], float)
                known = ~np.isnan(scores)
                if known.any():
                    self._block(paired.task, log, scorer, ids[known], groups[known], scores[known])
                    self._texts.append(_words([None] * int(known.sum()), None))

    def _block(
        self, task: str, log: TaskLog, scorer: str, ids: Any, groups: Any, score: Any
    ) -> None:
        stage = log.stage
        self._blocks.append(
            {
                "strategy": stage.strategy,
                "run": stage.run,
                "stage_name": stage.name,
                "trained_on": stage.trained_on or "",
                "benchmark": task,
                "role": self.roles[task],
                "scorer": scorer,
                "stage": stage.stage,
                "sample_id": ids,
                "group": groups,
                "score": score,
            }
        )

    def stages_without_scores(self) -> list[Problem]:
        """Stages that no task gave a score."""
        found = {(block["strategy"], block["run"], block["stage"]) for block in self._blocks}
        return [
            Problem(f"{stage.label} ({stage.path})", "has none of the tasks that are imported")
            for stage in self.stages
            if (stage.strategy, stage.run, stage.stage) not in found
        ]

    def rows(self) -> ScoreRows:
        """Everything gathered, as the rows of a score file."""
        sizes = [len(block["score"]) for block in self._blocks]
        names = {}
        for name in (*NAMES, "scorer"):
            if name in ("sample_id", "group"):
                values = np.concatenate([block[name] for block in self._blocks])
                names[name] = Words.of(values, np.arange(len(values)))
            else:
                words = np.array([block[name] for block in self._blocks], object)
                names[name] = Words.of(words, np.repeat(np.arange(len(sizes)), sizes))
        texts = pa.concat_tables(self._texts)
        return ScoreRows(
            names=names,
            stage=np.repeat([block["stage"] for block in self._blocks], sizes).astype(np.int64),
            score=np.concatenate([block["score"] for block in self._blocks]),
            texts={name: texts[name].combine_chunks() for name in texts.column_names},
            ignored=(),
        )


def _words(responses: Sequence[str | None], graded: Regraded | None) -> pa.Table:
    """The words of a block; what belongs to the document stands in the base's rows only."""
    n = len(responses)
    samples = graded.samples if graded else []
    text, texts = pa.large_string(), pa.list_(pa.string())
    nothing: list[Any] = [None] * n

    def column(values: list[Any], kind: pa.DataType) -> pa.Array:
        return pa.array([_clean(v) for v in values] if samples else nothing, kind)

    return pa.table(
        {
            "question": column([s.question for s in samples], text),
            "response": pa.array([_clean(r) for r in responses], text),
            "gold": column([" / ".join(dict.fromkeys(s.answers)) for s in samples], text),
            "answer_type": column([s.answer_type for s in samples], pa.string()),
            "answers": column([list(s.answers) for s in samples], texts),
            "choices": column([list(s.choices) for s in samples], texts),
        }
    )


def _clean(value: Any) -> Any:
    """Texts that a file can hold: JSON may escape half of a surrogate pair."""
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if value is None:
        return None
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return value.encode("utf-8", "replace").decode("utf-8")
    return value


def _settings(paired: PairedTask) -> str:
    """How a task's numbers were made: equal in two studies means comparable."""
    measure, base = paired.measure, paired.base
    prompts = hashlib.sha256(b"".join(d or b"?" for d in base.answers.prompts)).hexdigest()
    return "|".join(
        [
            f"evaluator:{base.evaluator}",
            f"task:{paired.task} {base.results.version}",
            f"metric:{measure.name}/{measure.scale:g}",
            f"filter:{measure.filter}",
            f"prompts:{prompts[:16]}",
        ]
    )
