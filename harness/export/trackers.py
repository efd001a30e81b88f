"""Trackers: a study's scores logged through the libraries of wandb, MLflow or Trackio.

One run of the tracker per training run; its steps are the stages, the base is step 0. Only means
are logged: intervals and verdicts need the samples, which stay here.
"""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from harness.analysis.scores import Stage, StudyScores
from harness.errors import UserError, first_line

Tracker = Literal["wandb", "mlflow", "trackio"]
Steps = Sequence[tuple[int, Mapping[str, float]]]


def log_scores(scores: StudyScores, to: Tracker) -> int:
    """Logs every run of a study; how many. Raises UserError when the library is not installed."""
    library = require(to)
    runs = scores.runs() or {("base", "0"): list(scores.stages)}
    for (strategy, run), stages in runs.items():
        name = strategy if run in ("", "0") else f"{strategy}-{run}"
        facts = {
            "study": scores.study,
            "base_model": scores.base_model,
            "strategy": strategy,
            "component": scores.components.get(strategy, ""),
            "stages": ", ".join(stage.name for stage in stages),
        }
        steps = [(place, means(scores, stage)) for place, stage in enumerate(stages)]
        try:
            _WRITERS[to](library, scores.study, name, facts, steps)
        except Exception as error:  # the boundary: a server refuses, a login is missing, ...
            raise UserError(to, f"would not take run {name!r}: {first_line(error)}") from error
    return len(runs)


def means(scores: StudyScores, stage: Stage) -> dict[str, float]:
    """`benchmark/scorer` -> mean score of a stage, a fraction in [0, 1]; missing ones left out."""
    found = {}
    for name, bench in scores.benchmarks.items():
        if stage.key not in bench.columns:
            continue
        j = bench.columns.index(stage.key)
        for scorer, values in bench.values.items():
            known = np.isfinite(values[:, j])
            if known.any():
                mean = float(np.average(values[known, j], weights=bench.weights[known]))
                found[f"{_plain(name)}/{scorer}"] = mean
    return {name: mean for name, mean in found.items() if math.isfinite(mean)}


def _plain(name: str) -> str:
    """A name that every tracker takes."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name)


def require(to: Tracker) -> Any:
    """The tracker's library. Raises UserError with the command that installs it."""
    try:
        return importlib.import_module(to)
    except ImportError:
        raise UserError("--log-to", f"{to} is not installed; pip install {to}") from None


def _wandb(library: Any, study: str, name: str, facts: Mapping[str, str], steps: Steps) -> None:
    run = library.init(project=_plain(study), name=name, config=dict(facts), reinit=True)
    for step, values in steps:
        run.log(dict(values), step=step)
    run.finish()


def _mlflow(library: Any, study: str, name: str, facts: Mapping[str, str], steps: Steps) -> None:
    library.set_experiment(_plain(study))
    with library.start_run(run_name=name):
        library.log_params(dict(facts))
        for step, values in steps:
            library.log_metrics(dict(values), step=step)


def _trackio(library: Any, study: str, name: str, facts: Mapping[str, str], steps: Steps) -> None:
    library.init(project=_plain(study), name=name, config=dict(facts))
    for step, values in steps:
        library.log(dict(values), step=step)
    library.finish()


_Writer = Callable[[Any, str, str, Mapping[str, str], Steps], None]
_WRITERS: Mapping[Tracker, _Writer] = {"wandb": _wandb, "mlflow": _mlflow, "trackio": _trackio}
