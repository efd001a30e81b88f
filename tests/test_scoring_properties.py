"""What holds for every answer: lenient forgives form and nothing else, strict forgives nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.number_words import TO_TWENTY
from harness.scoring import FAMILIES, SCORERS
from harness.scoring.answer_type import classify, is_bare_number
from harness.scoring.clock import read as read_clock
from harness.scoring.number import read as read_number
from harness.types import Sample

GOLDEN = Path(__file__).parent / "golden"


@dataclass(frozen=True)
class Case:
    """A question with texts that answer it rightly and wrongly."""

    family: str
    golds: tuple[str, ...]
    right: tuple[str, ...]
    wrong: tuple[str, ...]
    choices: tuple[str, ...] = ()
    doc: dict[str, object] = field(default_factory=dict)
    question: str = ""

    @property
    def sample(self) -> Sample:
        return Sample("q", self.question, self.golds, choices=self.choices, doc=self.doc)


ANIMALS = ("cat", "black cat", "dog", "bird")
CASES = (
    Case("choice", ("B",), ("B", "black cat", "(B)", "B. black cat"), ("C", "cat", "D. bird"), ANIMALS),
    Case("choice", ("A",), ("A", "cat", "(A)", "A: cat"), ("B", "black cat", "(C)"), ANIMALS),
    Case("choice", ("C",), ("C", "3", "(C) 3"), ("A", "1", "B. 2"), ("1", "2", "3", "4")),
    Case("number", ("3",), ("3", "three", "3 dogs", "3.0"), ("4", "thirteen", "no dogs", "alone", "30")),
    Case("number", ("0",), ("0", "zero", "none", "no dogs"), ("1", "someone", "ten", "10")),
    Case("number", ("1000",), ("1000", "1,000", "one thousand", "１０００"), ("100", "1,001", "1")),
    Case("yes_no", ("yes",), ("yes", "Yes", "yeah"), ("no", "3", "eyes", "nope")),
    Case("yes_no", ("No",), ("no", "nope", "false"), ("yes", "north", "none")),
    Case("time", ("15:45",), ("3:45", "15:45", "quarter to four", "3:46"), ("4:45", "3:40", "45:15", "3")),
    Case("time", ("4:00",), ("4:00", "3:59", "4 o'clock", "four o'clock"), ("4:59", "3:00", "4", "16:02")),
    Case("vqa", ("red",) * 10, ("red", "Red", "the red"), ("blue", "dark red", "redwood", "3")),
    Case("vqa", ("12",) * 10, ("12", "twelve", "12 slots"), ("2", "112", "twenty")),
    Case("exact", ("tennis racket",), ("tennis racket", "a tennis racket"), ("racket", "tennis", "ten")),
    Case("anls", ("Kona Roasters",), ("Kona Roasters", "kona roasters"), ("Dunkin", "1987", "Philz")),
    Case("relaxed", ("62%",), ("62%", "62", "60", "62 percent"), ("55", "162", "six", "26%")),
    Case("relaxed", ("0",), ("0", "0.0", "zero"), ("1", "0.01", "10")),
    Case(
        "relaxed", ("2013",), ("2013", "2013.0"), ("2014", "2100", "13"), question="In which year?"
    ),
    Case("ocr", ("love",), ("love", "LOVE", "love!"), ("glove", "lov", "hate")),
    Case("letter_or_text", ("B",), ("B", "right", "(B)"), ("A", "left"), ("Left", "Right")),
    Case("letter_or_text", ("Downhill",), ("downhill",), ("uphill", "hill", "B")),
    Case("pathology", ("liver",), ("liver", "the liver"), ("kidney", "yes", "deliver", "3")),
    Case("pathology", ("no",), ("no", "No"), ("yes", "noon", "liver")),
    Case("mmmu", ("['24/7', '3.429']",), ("24/7", "3.43", "3.429"), ("24", "7", "3.5")),
)  # fmt: skip
IDS = [f"{case.family}-{case.golds[0]}" for case in CASES]

WRAPPERS = (
    "{}",
    "{}.",
    "  {}\n",
    "**{}**",
    '"{}"',
    "`{}`",
    "<b>{}</b>",
    "<answer>{}</answer>",
    "Answer: {}",
    "answer: {}.",
    "The answer is {}",
    "The answer is {}.",
    "The correct answer is: {}.",
    "Final answer: {}",
    "I think the answer is {}.",
    "So the answer is **{}**.",
    "<think>it could be anything</think>{}",
    "<think>it could be anything</think>\n\nThe answer is {}.",
)
HEDGES = (
    "{0} or {1}",
    "{1} or {0}",
    "either {0} or {1}",
    "The answer is {0} or {1}.",
    "{0}, maybe {1}",
    "{0}, possibly {1}",
    "{0}, but it could be {1}",
    "{1}, but it might be {0}",
    "The answer is {0}, but it might also be {1}.",
)


def scores(case: Case, response: str) -> tuple[float, float]:
    family = FAMILIES[case.family]
    strict = family["strict"](case.sample, response).value
    lenient = family["lenient"](case.sample, response).value
    assert strict is not None
    assert lenient is not None
    return strict, lenient


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_a_right_answer_is_right_in_any_wrapping(case: Case) -> None:
    for right in case.right:
        for wrapper in WRAPPERS:
            strict, lenient = scores(case, wrapper.format(right))
            assert lenient == 1.0, (wrapper, right)
            assert strict <= lenient


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_a_wrong_answer_is_wrong_in_any_wrapping(case: Case) -> None:
    for wrong in case.wrong:
        for wrapper in WRAPPERS:
            assert scores(case, wrapper.format(wrong)) == (0.0, 0.0), (wrapper, wrong)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_a_hedge_is_wrong(case: Case) -> None:
    for wrong in case.wrong:
        for hedge in HEDGES:
            response = hedge.format(case.right[0], wrong)
            assert scores(case, response) == (0.0, 0.0), response


@pytest.mark.parametrize("case", CASES, ids=IDS)
@pytest.mark.parametrize("empty", ["", " ", "\n", ".", "...", "<think>3</think>", "\u200b", "?"])
def test_nothing_is_not_an_answer(case: Case, empty: str) -> None:
    assert scores(case, empty) == (0.0, 0.0)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_the_gold_itself_is_right_in_both(case: Case) -> None:
    gold = case.golds[0] if case.family != "mmmu" else "24/7"
    for response in (gold, gold.upper(), gold.lower(), f" {gold} "):
        assert scores(case, response) == (1.0, 1.0), response


# --- any text --------------------------------------------------------------------------------

PIECES = st.sampled_from(
    [right for case in CASES for right in (*case.right, *case.wrong)]
    + ["the answer is ", "not ", " or ", "No, ", "there is ", "I ", "a ", ":", "-", "(", ")", "\n"]
    + ["<think>", "</think>", "**", "$", "%", "\\boxed{", "}", "'s", "n't", "İ", "ß", "ı", "½", "٣"]
)
TEXTS = st.one_of(
    st.text(max_size=40),
    st.lists(PIECES, min_size=1, max_size=5).map("".join),
    st.lists(PIECES, min_size=1, max_size=5).map(" ".join),
)


@given(response=TEXTS, case=st.sampled_from(CASES))
@settings(max_examples=400, deadline=None)
def test_form_never_changes_lenient(response: str, case: Case) -> None:
    lenient = FAMILIES[case.family]["lenient"]
    value = lenient(case.sample, response).value
    for other in (
        response.upper(),
        response.lower(),
        response.swapcase(),
        f"{response}.",
        f"  {response}\n",
    ):
        assert lenient(case.sample, other).value == value, other


@given(response=TEXTS, case=st.sampled_from(CASES))
@settings(max_examples=400, deadline=None)
def test_lenient_is_never_below_a_right_strict(response: str, case: Case) -> None:
    strict, lenient = scores(case, response)
    assert 0.0 <= strict <= 1.0
    assert 0.0 <= lenient <= 1.0
    assert lenient == 1.0 or strict < 1.0


def first_docs() -> dict[str, dict[str, object]]:
    """Native columns of one sample per golden table, by task."""
    from test_scoring_golden import BENCHMARKS, task_of

    found = {}
    for name in BENCHMARKS:
        with (GOLDEN / f"{name}.jsonl").open(encoding="utf-8") as lines:
            found[task_of(name)] = json.loads(lines.readline())["sample"]
    return found


REFERENCES = [
    (doc, scorer)
    for task, doc in first_docs().items()
    for name, scorer in SCORERS[task].items()
    if name in ("lmm_cl", "lmms_eval")
]


@given(response=TEXTS, reference=st.sampled_from(REFERENCES))
@settings(max_examples=300, deadline=None)
def test_reference_scorers_take_any_text(response: str, reference: tuple) -> None:  # type: ignore[type-arg]
    doc, scorer = reference
    score = scorer(Sample("q", "", (), doc=doc), response)
    values = [value for value in (score.value, *score.metrics.values()) if value is not None]
    assert all(0.0 <= value <= 1.0 for value in values)


@given(response=TEXTS)
@settings(max_examples=200, deadline=None)
def test_every_text_has_a_type(response: str) -> None:
    found = classify(response)
    assert found in ("letter", "yes_no", "integer", "decimal", "time", "phrase", "sentence",
                     "refusal", "repetition", "empty")  # fmt: skip
    assert not is_bare_number(response) or found in ("integer", "decimal", "repetition")


LONG = ["3 " * 5000, "a" * 20000, "(" * 5000, "9" * 6000, "1," * 5000, "the " * 5000 + "is", "\n" * 9000,
        "twenty " * 3000, "A, " * 4000, "no " * 5000, "<think>" * 3000, "x: " * 4000]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=IDS)
@pytest.mark.timeout(60)
def test_long_answers_end(case: Case) -> None:
    for response in LONG:
        strict, lenient = scores(case, response[:6000])
        assert strict <= lenient


# --- numbers and times -----------------------------------------------------------------------

TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()  # noqa: SIM905


def spelled(n: int, joiner: str, conjunction: str) -> str:
    """`n` (0 to 9,999) in English; `joiner` between tens and ones, `conjunction` after hundreds."""
    if n < 20:
        return TO_TWENTY[n]
    if n < 100:
        tens, ones = divmod(n, 10)
        return TENS[tens - 2] + (joiner + TO_TWENTY[ones] if ones else "")
    size, name = (100, "hundred") if n < 1000 else (1000, "thousand")
    head, rest = divmod(n, size)
    text = f"{spelled(head, joiner, conjunction)} {name}"
    if not rest:
        return text
    # "and" stands before what is left of the last hundred only.
    return f"{text}{conjunction if rest < 100 else ' '}{spelled(rest, joiner, conjunction)}"


@given(
    n=st.integers(0, 9999),
    joiner=st.sampled_from(["-", " "]),
    conjunction=st.sampled_from([" ", " and "]),
    wrapper=st.sampled_from(["{}", "There are {} dogs in this image.", "**{}**", "{} birds"]),
)
@settings(max_examples=300, deadline=None)
def test_numbers_are_read_in_digits_and_words(
    n: int, joiner: str, conjunction: str, wrapper: str
) -> None:
    for text in (spelled(n, joiner, conjunction), str(n), f"{n:,}", f"{n}.0"):
        assert read_number(wrapper.format(text)) == n, text


@given(
    hour=st.integers(0, 23),
    minute=st.integers(0, 59),
    wrapper=st.sampled_from(["{}", "It is {}.", "The clock shows {}", "the time is {}"]),
)
@settings(max_examples=300, deadline=None)
def test_times_are_read_in_digits_and_words(hour: int, minute: int, wrapper: str) -> None:
    face = hour % 12 or 12
    following = TO_TWENTY[hour % 12 + 1]
    forms = [f"{hour}:{minute:02d}", f"{hour:02d}:{minute:02d}", f"{face}:{minute:02d} p.m."]
    if minute == 0:
        forms += [f"{TO_TWENTY[face]} o'clock", f"{face} o'clock", f"{face} PM"]
    else:
        forms.append(f"{spelled(minute, '-', ' ')} minutes past {TO_TWENTY[face]}")
        forms.append(f"{spelled(60 - minute, ' ', ' ')} to {following}")
    if minute in (15, 30):
        forms.append(f"{'quarter' if minute == 15 else 'half'} past {face}")
    if minute >= 10:
        forms.append(f"{TO_TWENTY[face]} {spelled(minute, '-', ' ')}")
    for form in forms:
        time = read_clock(wrapper.format(form))
        assert time is not None, form
        assert (time.hour % 12, time.minute) == (hour % 12, minute), form
