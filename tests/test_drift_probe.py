"""Drift of what diagnostics read: planted distributions through the whole road."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from replay import ReplayEngine
from test_drift import MANIFEST, gold_of, place, stage_of  # noqa: F401  (place is a fixture)

from harness import engines, integrity, study
from harness.analysis.drift import Explanation, explain
from harness.analysis.scores import BenchmarkScores, StudyScores
from harness.analysis.shifts import Form, WrongKind
from harness.cli.drift import correlation_sentence, notes_of
from harness.report.live import Quiet
from harness.scoring.diagnostics import likeliest
from harness.scoring.study import read_scores
from harness.study import Options
from harness.types import Prediction, Reading, Request, StageKey

pytestmark = pytest.mark.slow

BASE_LOGS = (-0.1, -3.0, -4.0)
Says = Callable[[str, str, int, str], str]


class Planted(ReplayEngine):
    """Answers, distributions and likelihoods of options, each by a rule of its own.

    `numbers`: checkpoint -> number mass on the base's answers; `knows`: the likeliest option.
    """

    def __init__(self, answer: Says, knows: Says, numbers: dict[str, float]):
        super().__init__(lambda checkpoint, request: self._by(answer, request))
        self._knows = knows
        self._numbers = numbers

    @property
    def name(self) -> str:
        return Path(self.current.path).name

    def _by(self, rule: Says, request: Request) -> str:
        task, _, i = request.sample_id.partition("-")
        return rule(self.name, task, int(i), gold_of(task, int(i)))

    def generate(self, requests: Sequence[Request]) -> Iterator[Prediction]:
        for request in requests:
            if request.probe is None:
                yield from super().generate([request])
            else:
                yield Prediction(request.sample_id, reading=self._read(request))

    def _read(self, request: Request) -> Reading:
        probe, mass = request.probe, self._numbers.get(self.name, 0.02)
        assert probe is not None
        if probe.peaks:
            return Reading((5, 6), (5, 6), {"number": (mass, 0.0)}, {"number": (mass / 2, 0.0)})
        i = int(request.sample_id.partition("-")[2])
        if not probe.tokens:
            tops, logs = ((5, 9),) * 2, (BASE_LOGS,) * 2
            return Reading((5, 6), (5, 6), {"number": (0.02, 0.02)}, {}, tops, logs, (0.0,) * 2,
                           (0.0,) * 2)  # fmt: skip
        assert probe.tokens == (5, 6) and probe.top_logs == (BASE_LOGS,) * 2
        far = mass + (i % 5) / 100
        first = 7 if mass > 0.1 and i % 2 else 5
        return Reading((5, 6), (first, 6), {"number": (mass, 0.02)}, {}, (), (), (4 * far, 0.0),
                       (8 * far, 0.0))  # fmt: skip

    def log_likelihood(self, requests: Sequence[Request]) -> Iterator[Prediction]:
        for request in requests:
            best = self._by(self._knows, request)
            logs = tuple(-1.0 if option == best else -4.0 for option in request.choices)
            yield Prediction(request.sample_id, choice_scores=logs)


def right(checkpoint: str, task: str, i: int, gold: str) -> str:
    return gold


def mostly_a(checkpoint: str, task: str, i: int, gold: str) -> str:
    return "A" if task == "pick" and checkpoint == "llm1" and i % 3 else gold


@pytest.fixture
def planted(place: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Explanation]:  # noqa: F811
    def make(name: str, answer: Says, knows: Says, order=("count", "place"), **numbers: float):
        engine = Planted(answer, knows, numbers)
        monkeypatch.setattr(engines, "create", lambda kind, options: engine)
        text = (MANIFEST % (*order, *order)).replace("planted", name)
        text = text.replace("suite:", "suite:\n  limit: 80")
        (place / f"{name}.yaml").write_text(text)
        diagnostics = ("forced", "free-running", "choices")
        options = Options(place / "results", diagnostics=diagnostics, probe_samples=40)
        opened = study.open_study(place / f"{name}.yaml", options)
        outcome = study.score(opened, Quiet())
        assert outcome.exit_code == 0, outcome.failures
        folder = place / "results" / name
        assert {finding.kind for finding in integrity.check(folder)} == {"ok"}
        return explain(read_scores(folder, traits=True))

    return make


def said(found: Explanation, strategy: str, stage: str) -> str:
    return next(s for s in found.sentences() if s.startswith(f"{strategy}, after `{stage}`"))


def test_letters_that_shift_while_the_options_are_known_are_format(planted):
    found = planted("known", mostly_a, right)
    dip = stage_of(found, "llm", 1)
    given, known, gap = (
        dip.shift(f"{name}") for name in ("generated_accuracy", "choice_accuracy", "choice_gap")
    )
    assert given and known and gap
    # Two in three say A, of which a quarter is right.
    assert given.change.delta == pytest.approx(-0.5, abs=0.1) and known.change.delta == 0
    assert gap.change.low < given.change.delta == gap.change.delta < gap.change.high
    text = said(found, "llm", "count")
    assert f"on questions with options −{-100 * given.change.delta:.1f} pp as answered" in text
    assert " and +0.0 pp" in text and "by the likelihood of the options, so 100 % of" in text
    assert "on questions" not in said(found, "llm", "place") + said(found, "sa_proj", "count")


def test_letters_that_shift_with_the_options_are_not_called_format(planted):
    found = planted("lost", mostly_a, mostly_a)
    text = said(found, "llm", "count")
    given = stage_of(found, "llm", 1).shift("generated_accuracy")
    loss = f"−{-100 * given.change.delta:.1f} pp"
    assert f"on questions with options {loss} as answered and {loss} [−" in text
    assert "of that loss is format" not in text


def test_half_known_is_half_format(planted):
    def half(checkpoint: str, task: str, i: int, gold: str) -> str:
        return mostly_a(checkpoint, task, i, gold) if i // 4 % 2 else gold

    gap = stage_of(planted("half", mostly_a, half), "llm", 1).shift("choice_gap")
    assert gap and gap.change.low < -0.25 < gap.change.high
    assert gap.change.delta == pytest.approx(-0.25, abs=0.1)


def test_distributions_on_the_bases_answers_are_told_and_held_against_the_change(planted):
    found = planted("moved", right, right, llm1=0.5, sa1=0.1)
    dip = stage_of(found, "llm", 1)
    mass, kl, same = (
        dip.shift(name) for name in ("forced_number_mass", "kl_forward", "top1_agreement")
    )
    assert mass and kl and same
    assert (mass.before, mass.after) == (pytest.approx(0.02), pytest.approx(0.26))
    assert kl.before == 0 and kl.after == pytest.approx(2 * 0.52, abs=0.02)
    assert kl.change.low < 1.04 < kl.change.high
    assert (same.before, same.after) == (1, pytest.approx(0.75, abs=0.1))
    text = said(found, "llm", "count")
    assert "on the base's own answers: number mass 0.02 → 0.26 [+0." in text
    assert "KL to the base 1.0" in text and " nats [+" in text
    assert "the base's token is the likeliest at " in text and " % of positions" in text
    assert "free-running, as the reference study measures: number mass 0.01 → 0.25" in text
    less = stage_of(found, "sa_proj", 1).shift("forced_number_mass")
    assert less and less.change.high < mass.change.low
    assert "number mass" not in said(found, "llm", "place")
    assert [c.measure for c in found.correlations] == [
        "bare_number", "forced_number_mass", "kl_forward", "free_number_mass",
    ]  # fmt: skip
    assert "against shift of the KL to the base: no" in correlation_sentence(found.correlations[2])
    reverse = dip.shift("kl_reverse")
    # A KL has no upper end: limits of shares do not hold it.
    assert reverse and reverse.change.high > reverse.change.delta > reverse.change.low > 1
    rows = found.table.query("measure == 'kl_reverse' and stage == 1 and strategy == 'llm'")
    assert set(rows["unit"]) == {"nats"}
    assert rows.set_index("benchmark")["shift"]["color"] == pytest.approx(2.08, abs=0.05)
    assert notes_of(found) == ["the probability of numbers where answers begin was not measured"]


def test_with_the_stages_swapped_the_probe_says_the_opposite(planted):
    found = planted("opposite", right, right, ("place", "count"), llm2=0.5)
    assert "number mass" not in said(found, "llm", "place")
    assert "own answers: number mass 0.02 → 0.26" in said(found, "llm", "count")


def test_the_likeliest_option_counts_spellings_together():
    assert likeliest(("A", "B"), (-2.0, -1.0)) == "B"
    assert likeliest(("yes", "no", "Yes", "No"), (-2.0, -1.5, -2.0, -9.0)) == "yes"
    assert likeliest(("yes", "no", "Yes", "No"), (-2.0, -0.5, -2.0, -9.0)) == "no"


def test_form_without_types_of_answers_is_what_the_lenient_scorer_forgives():
    key, one = StageKey("base", "0", 0), np.ones((3, 1))
    values = {"strict": np.array([[1.0], [0.0], [0.0]]), "lenient": np.array([[1.0], [1.0], [0.0]])}
    bench = BenchmarkScores(
        "b", "held_out", "accuracy", np.array(["1", "2", "3"], object), np.arange(3), one[:, 0],
        0 * one[:, 0], (key,), values, one.astype(np.uint8), one < 0,
    )  # fmt: skip
    scores = StudyScores("s", "m", (), {"b": bench})
    assert Form(scores, "strict").values(bench).T.tolist() == [[0, -1, 0]]
    typed = replace(bench, rates={"misfit_integer": one, "misfit_empty": 0 * one})
    assert WrongKind(scores).values(typed).T.tolist() == [[0, 0, -1]]
    assert Form(scores, "strict").values(typed).T.tolist() == [[0, -1, -1]]
