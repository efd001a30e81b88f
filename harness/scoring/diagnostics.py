"""What diagnostics read (`harness.diagnostics`), as one number per sample and checkpoint.

Like the traits of answers, each is averaged, paired and given intervals exactly like a score; NaN
where a sample was not read.

- `forced_<class>_mass`: probability of a token class at the positions of the base's own answer,
  their mean; `forced_number_mass@1` to `@4` at the first ones. `kl_forward`, `kl_reverse` (nats;
  over the base's likeliest tokens and the rest as one: at most the true values) and
  `kl_forward@1` to `@4`. `top1_agreement`: share of positions at which the base's token is the
  likeliest.
- `free_<class>_mass`, `free_<class>_peak`: probability of a class, and of its likeliest token,
  while the model answers freely: the mean over its steps; with `_max` the largest. The reference
  study's form, which depends on how long answers are.
- `choice_accuracy`: whether the likeliest option is right, over questions with options.
  `generated_accuracy`: the strict score of the answers to the same questions. `choice_gap`: the
  second minus the first: what free answering loses of what the likelihood still knows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.prompts import options_of
from harness.scoring.grade import Grader
from harness.storage.store import Store
from harness.types import KINDS, Kind, Prediction, Reading, Sample, Scorer

Columns = dict[str, NDArray[np.float64]]
# Positions whose own values are kept beside the mean: where an answer of a few words is decided.
FIRST_POSITIONS = 4


def diagnostic_columns(
    store: Store,
    stages: Sequence[Mapping[str, Any]],
    task: str,
    samples: Sequence[Sample],
    scorer: Scorer | None,
    texts: Sequence[Sequence[str | None] | None],
) -> Columns:
    """measure -> (n_samples, n_stages) values, of the stages as `study.json` lists them.

    `texts[j][i]`: stage j's own answer to sample i. Without a scorer options are not graded.
    Raises ResultsError for a damaged cell.
    """
    found: Columns = {}
    places = {sample.id: i for i, sample in enumerate(samples)}
    grader = Grader(scorer, samples) if scorer else None
    for j, stage in enumerate(stages):
        for kind, prediction in _stored(store, stage, task):
            i = places.get(prediction.sample_id)
            if i is None or prediction.status != "ok":
                continue
            values: dict[str, float] = {}
            if kind == "choices" and grader:
                own = texts[j]
                values = _of_choices(samples[i], prediction, own[i] if own else None, grader)
            elif prediction.reading and prediction.reading.tokens:
                values = (_forced if kind == "forced" else _free)(prediction.reading)
            for measure, value in values.items():
                if measure not in found:
                    found[measure] = np.full((len(samples), len(stages)), np.nan)
                found[measure][i, j] = value
    return found


def _stored(store: Store, stage: Mapping[str, Any], task: str) -> Iterator[tuple[Kind, Prediction]]:
    """(kind, prediction) of all sealed diagnostic cells of a stage and task."""
    for kind in KINDS:
        cell = stage.get("diagnostics", {}).get(kind, {}).get(task)
        if cell is not None and store.is_sealed(task, cell):
            yield from ((kind, p) for p in store.predictions(task, cell).values())


def _forced(read: Reading) -> dict[str, float]:
    same = [float(a == b) for a, b in zip(read.top1, read.tokens, strict=True)]
    found = {f"forced_{name}_mass": fmean(values) for name, values in read.masses.items()}
    found |= _first("forced_number_mass", read.masses.get("number", ()))
    if read.kl_forward:
        found |= {"kl_forward": fmean(read.kl_forward), "kl_reverse": fmean(read.kl_reverse)}
        found |= _first("kl_forward", read.kl_forward)
    return found | {"top1_agreement": fmean(same)}


def _first(measure: str, values: Sequence[float]) -> dict[str, float]:
    """The values at the first positions, counted from 1."""
    return {f"{measure}@{k}": value for k, value in enumerate(values[:FIRST_POSITIONS], start=1)}


def _free(read: Reading) -> dict[str, float]:
    parts = [("mass", read.masses), ("peak", read.peaks)]
    return {
        f"free_{name}_{what}{end}": summed
        for what, by_class in parts
        for name, values in by_class.items()
        for end, summed in (("", fmean(values)), ("_max", max(values)))
    }


def _of_choices(
    sample: Sample, prediction: Prediction, answer: str | None, grader: Grader
) -> dict[str, float]:
    options, logs = options_of(sample), prediction.choice_scores
    if logs is None or len(logs) != len(options):
        return {}
    known = grader.grade(sample.id, likeliest(options, logs)).value
    if known is None:
        return {}
    found = {"choice_accuracy": known}
    given = None if answer is None else grader.grade(sample.id, answer).value
    if given is not None:
        found |= {"generated_accuracy": given, "choice_gap": given - known}
    return found


def likeliest(options: Sequence[str], logs: Sequence[float]) -> str:
    """The option of the largest probability, its spellings in other cases counted together.

    >>> likeliest(("yes", "no", "Yes", "No"), (-1.0, -0.9, -1.0, -9.0))
    'yes'
    """
    sums: dict[str, float] = {}
    for option, value in zip(options, logs, strict=True):
        name = option.casefold()
        sums[name] = float(np.logaddexp(sums.get(name, -np.inf), value))
    best = max(sums, key=sums.__getitem__)
    return next(option for option in options if option.casefold() == best)
