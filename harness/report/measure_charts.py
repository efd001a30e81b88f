"""The charts of measures: bare numbers, token classes and distances from the base, by stage."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from harness.report import foreign_text
from harness.report.chart import Chart, line_panels, number, stage_table
from harness.report.numerals import interval, plain, signed
from harness.report.view import BASE_LABEL, View

CLASSES = {"number": "numbers", "letter": "letters", "yes_no": "yes or no", "time": "times"}


@dataclass(frozen=True, slots=True)
class Panels:
    """One chart: measures that belong together, a panel each."""

    name: str
    title: str
    note: str
    pattern: re.Pattern[str]
    """Which measures; its group `of`, where there is one, is a token class."""
    titles: Mapping[str, str]
    """Measure -> what stands over its panel; else the name of its class."""


CHARTS = (
    Panels(
        "rates",
        "Bias of answers on held-out questions",
        "Bare numbers are answers that are a number and nothing else, to questions that do not "
        "ask for one. The other panels are the probability of a class of tokens where answers "
        "begin.",
        re.compile(r"bare_number|(?!forced_|free_)(?P<of>.+)_mass"),
        {"bare_number": "bare-number answers"},
    ),
    Panels(
        "forced",
        "Probe: token classes on the base's own answers",
        "Every checkpoint is read at each position of the answers that the base gave to a sample "
        "of held-out prompts: what differs is not the answer but the distribution behind it.",
        re.compile(r"forced_(?P<of>.+)_mass"),
        {},
    ),
    Panels(
        "divergence",
        "Probe: distance from the base on its own answers",
        "KL divergence, mean over positions: over the base's likeliest tokens and the rest as "
        "one, so at most the whole.",
        re.compile(r"kl_forward|kl_reverse"),
        {"kl_forward": "KL(base ‖ model)", "kl_reverse": "KL(model ‖ base)"},
    ),
    Panels(
        "free-running",
        "Probe, free-running: token classes while the model answers",
        "The reference study's form: the mean over the steps of each checkpoint's own answer, so "
        "it depends on what is said and for how long.",
        re.compile(r"free_(?P<of>.+)_mass"),
        {},
    ),
)
READING = " Change against the base; bands are intervals."


def measured(view: View) -> Iterator[Chart]:
    """A chart for each kind of measure that the study has."""
    for panels in CHARTS:
        rows = _rows(view, panels)
        if rows:
            yield _chart(view, panels, rows)


def _rows(view: View, panels: Panels) -> list[dict[str, Any]]:
    """A zero at the base, then the changes. A token class without any probability is left out."""
    rows: list[dict[str, Any]] = []
    names = [] if view.measures.empty else list(view.measures["measure"].unique())
    for measure in names:
        found = panels.pattern.fullmatch(str(measure))
        if found is None:
            continue
        of = found.groupdict().get("of") or ""
        title = panels.titles.get(str(measure)) or CLASSES.get(of) or foreign_text.name(of)
        for strategy in view.strategies:
            stages = view.measured_of(strategy, str(measure))
            levels = stages[["before", "after"]].to_numpy() if len(stages) else np.zeros(1)
            if len(stages) and (levels.any() or not of):
                rows += _line(view, strategy, title, stages)
    return rows


def _line(view: View, strategy: str, title: str, stages: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """One strategy's rows of one panel."""
    who = foreign_text.name(strategy)
    first = stages.iloc[0]
    unit, change, digits = ("nats", "nats", 2) if first["unit"] == "nats" else ("%", "pp", 1)
    base = f"{plain(first['before'], digits)} {unit}"
    common = {"strategy": who, "measure": title, "digits": digits, "change": change}
    yield {**common, "stage": 0, "place": BASE_LABEL, "delta": 0.0, "low": 0.0, "high": 0.0,
           "shown": base, "says": f"{who}; {title}; base; {base}"}  # fmt: skip
    for _, row in stages.iterrows():
        place = view.label_of(int(row["stage"]))
        levels = f"{plain(row['before'], digits)} → {plain(row['after'], digits)} {unit}"
        limits = interval(row["ci_low"], row["ci_high"], digits)
        yield {
            **common,
            "stage": int(row["stage"]),
            "place": place,
            "delta": number(row["shift"]),
            "low": number(row["ci_low"]),
            "high": number(row["ci_high"]),
            "says": f"{who}; {title}; after {place}; {levels}; "
            f"{signed(row['shift'], digits)} {change} {limits}",
        }


def _chart(view: View, panels: Panels, rows: list[dict[str, Any]]) -> Chart:
    largest = max((row for row in rows if row["stage"]), key=lambda row: abs(row["delta"]))
    return Chart(
        panels.name,
        panels.title,
        f"Largest change: {largest['says'].replace('; ', ', ')}.",
        lambda width: line_panels(view, rows, "measure", width, y_title=rows[0]["change"]),
        stage_table(
            view, rows, "Measure", "measure", "Strategy", "strategy", digits=rows[0]["digits"]
        ),
        panels.note + READING,
    )
