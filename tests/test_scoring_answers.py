"""How answers are read, one table per kind: what a model may write, and what it is taken to say."""

from __future__ import annotations

import time

import pytest
from test_scoring_golden import BENCHMARKS, rows_of, task_of

from harness.scoring import FAMILIES, SCORERS, choice, clock, number, phrase, relaxed, vqa, yes_no
from harness.scoring.aggregates import aggregate
from harness.scoring.answer_type import classify, is_bare_number
from harness.scoring.choice import inline_options
from harness.scoring.lmms_eval import extract_letter
from harness.types import Sample

ANIMALS = ("cat", "dog", "bird", "a fish")

CHOICES = {
    "A": ("A", "a", "A.", "(a)", "Answer: (A) cat", "The answer is a cat", "A because it is furry"),
    "B": ("B", "b)", "[B]", "B: dog", "B - dog", "**Answer:** B", "option (B) is correct", "a dog",
          "The correct option is B: dog.", "It's a dog, not a cat", "not a cat but a dog", "B!",
          "The bird in the image is B", "The animal is a dog.", "B\n\nB", "{B}", "$\\boxed{B}$",
          "Final answer: $\\boxed{\\text{B}}$", "B is the answer", "correct answer is B, not A or C",
          '{"answer": "B"}', "B (90% sure)", "正解はB", "<|im_start|>B<|im_end|>", "1. B"),
    "C": ("Answer is C, D is wrong", "Options A and B are wrong, so C", "C, bird"),
    "D": ("a fish", "fish", "The answer is a fish", "D) a fish", "ｄ"),
    None: ("", "B and C", "both A and B", "A or B", "A, B, C, D", "A/B", "cat or dog", "dog and cat",
           "A cat or a dog", "A. cat\nB. dog", "A. dog", "(A) dog", "neither", "none of these",
           "not B", "It could be A or C", "Not sure", "a horse", "3", "BBB", "N/A", "caterpillar",
           "The answer is B or cat."),
}  # fmt: skip

NUMBERS = {
    3: ("3", "three", "Three.", "3.0", "There are three dogs.", "3 (three)", "about 3", "３", "003",
        "image 1 shows 3 birds", "3\n\nI counted 2 and then 1.", "\\boxed{3}", "³"),
    0: ("0", "zero", "none", "no dogs", "There are no dogs", "nobody", "There aren't any dogs",
        "I don't see any dogs"),
    1: ("one", "only one", "just one dog", "There is one dog.", "a single bird"),
    2: ("a couple of dogs", "a pair", "two 2"),
    5: ("There are 2 on the left and 3 on the right, for a total of 5.", "$5", "5 people"),
    12: ("a dozen", "twelve", "roughly a dozen"),
    6: ("half a dozen",),
    24: ("two dozen",),
    21: ("twenty-one", "twenty one", "TWENTY-ONE"),
    1000: ("1,000", "a thousand", "one thousand"),
    2305: ("two thousand three hundred and five",),
    -2: ("-2", "−2"),
    None: ("", "3-4", "3 or 4", "three or four", "between 3 and 5", "at least 3", "more than 10",
           "3+", "many", "1, 2, 3", "3 dogs and 2 cats", "3rd", "the third", "alone", "someone",
           "tennis", "a bone", "3:45", "6/10", "1,00", "1e3", "not 3", "the first one", "No.",
           "nineteen ninety", "9" * 5000),
}  # fmt: skip

TIMES = {
    (3, 45): ("3:45", "03:45", "15:45", "3.45", "3h45", "3 45", "345", "0345", "3:45 PM", "3:45pm",
              "3:45:12", "quarter to four", "a quarter to 4", "three forty-five", "3 hours 45 minutes",
              "The time is 3:45 p.m.", "around 3:45", "Hour: 3, Minute: 45", "15 to 4", "３：４５",
              "3:45\n\nThe hour hand is near 4:00.", "3:45 3:45 3:45", "3 45 pm"),
    (3, 0): ("3 o'clock", "three o'clock", "three o clock", "3pm", "3 PM", "3:00."),
    (0, 0): ("noon", "midnight", "12:00", "0:00", "24:00"),
    (5, 5): ("five oh five", "5:5", "five past five", "5 minutes past 5"),
    (2, 35): ("twenty-five to three", "two thirty-five"),
    None: ("", "3", "twelve", "3:45 or 9:15", "3:45 and 9:15", "25:00", "12:60", "45:15", "half three",
           "between 3 and 4", "not 3:45", "12 30 15", "either 3:45 or 4:00"),
}  # fmt: skip

YES_NO = {
    "yes": ("yes", "Yes.", "YES!", "yes, there is", "Yes it is", "The answer is yes", "y", "True",
            "there is a cat", "Sure, yes", "Yes\nBecause the animal is visible.", "I think so"),
    "no": ("no", "No,", "No, there isn't", "there is no cat", "There isn't a cat", "It is not", "n",
           "nope", "False", "No - it is red", "no cat", "No cat can be seen", "I don't think so",
           "there does not appear to be a cat"),
    None: ("", "yes or no", "yes/no", "yes no", "No. Yes.", "not sure", "maybe", "noon", "eyes", "3",
           "I cannot tell", "The image shows a cat.", "none", "yes or 3"),
}  # fmt: skip

# What is said of things: with no question named, and to "Is there a dog in the image?".
DENIALS = {
    ("no", "no"): ("There are zero dogs", "There are neither dogs nor cats", "The dog is not there",
                   "There is nothing like a dog", "I do not see a dog.", "I can't see any dogs",
                   "A dog is not present.", "The image contains no dog.", "Definitely not.",
                   "Absolutely not", "Certainly not", "Probably not", "Not at all", "I see no dog",
                   "There is no cat or dog", "There is no cat, dog or bird", "It has no dog",
                   "The picture does not contain a dog", "I don't think there is a dog",
                   "No dog is visible.", "No, there is a cat", "There are no dogs here.", "It's not there", "There's no dog"),
    ("yes", "yes"): ("There is a dog", "There are two dogs.", "There is one.", "There's a dog",
                     "There is a cat, a dog and a bird.", "Yes, there is a dog and no cat"),
    (None, "no"): ("There is a cat but no dog.", "There is a cat. No dog.",
                   "There is no dog, only a cat", "There is no dog but there is a cat",
                   "No dog is visible, just grass.", "There is just a cat, no dogs"),
    (None, "yes"): ("I see a dog", "The image shows a dog.", "There appears to be a dog",
                    "The dog is visible", "There is a dog, but no cat", "There is no cat, but there is a dog"),
    ("yes", None): ("There is a cat",),
    ("no", None): ("It isn't a cat, it's a dog",),
    (None, None): ("It is not true that there is no dog", "The answer is not no", "I see a cat",
                   "There is not enough information", "There is insufficient information",
                   "There is a cat, not a dog", "There is only a cat", "There is no doubt", "No 7",
                   "No. 7", "No one knows", "No comment", "There might be a dog", "Not only a dog",
                   "There is a dog or a cat", "I cannot see the image", "There is not only a dog",
                   "There is no doubt that there is a dog", "There is a cat without a dog"),
}  # fmt: skip

TYPES = {
    "letter": ("A", "(b)", "B. cat", "(A) a cat"),
    "yes_no": ("yes", "No.", "NO"),
    "integer": ("3", "three.", "1,000", "62%", "$5", "twenty-one"),
    "decimal": ("3.5", "5.0", "$5.99", "12.5%"),
    "time": ("3:45", "3:45 pm", "quarter past three", "4 o'clock"),
    "phrase": ("a red bus", "liver", "3 dogs", "none", "B or C",
               "high-power view of glomerulus with crescent formation"),
    "sentence": ("There is a red bus.", "Yes, it is", "The bus is red"),
    "refusal": ("I'm sorry, I can't help with that.", "Unable to determine", "I cannot see the image"),
    "repetition": ("3 3 3 3 3", "the cat the cat the cat the cat", "C.C.C.C.C.C."),
    "empty": ("", "  ", "...", "<think>hm</think>"),
}  # fmt: skip


@pytest.mark.parametrize("letter", CHOICES)
def test_choices(letter: str | None) -> None:
    found = {response: choice.read(response, ANIMALS) for response in CHOICES[letter]}
    assert found == dict.fromkeys(CHOICES[letter], letter)


@pytest.mark.parametrize("value", NUMBERS)
def test_numbers(value: int | None) -> None:
    found = {response: number.read(response) for response in NUMBERS[value]}
    assert found == dict.fromkeys(NUMBERS[value], value)


@pytest.mark.parametrize("face", TIMES)
def test_times(face: tuple[int, int] | None) -> None:
    found = {}
    for response in TIMES[face]:
        read = clock.read(response)
        found[response] = (read.hour % 12, read.minute) if read else None
    assert found == dict.fromkeys(TIMES[face], face)


@pytest.mark.parametrize("word", YES_NO)
def test_yes_and_no(word: str | None) -> None:
    found = {response: yes_no.read(response) for response in YES_NO[word]}
    assert found == dict.fromkeys(YES_NO[word], word)


@pytest.mark.parametrize("words", DENIALS)
def test_denials_are_no_affirmations(words: tuple[str | None, str | None]) -> None:
    asked = "Is there a dog in the image?"
    found = {text: (yes_no.read(text), yes_no.read(text, asked)) for text in DENIALS[words]}
    assert found == dict.fromkeys(DENIALS[words], words)


def test_people_are_persons_and_counts_must_agree() -> None:
    def read(response: str, question: str) -> str | None:
        return yes_no.read(response, f"{question} Please answer yes or no.")

    assert read("There is a man", "Is there a person in the image?") == "yes"
    assert read("There are two people", "Are there a total of two people in the image?") == "yes"
    assert read("There are three people", "Are there a total of two people in the image?") is None
    assert read("There are berries", "Is there a berry on the cake?") == "yes"


HOSTILE = ("no no no ", "<", "\n", "yes, ", "no. ", "there is ", "not ", "a or ", "the x is ", "3 ")


@pytest.mark.parametrize(
    "kind", ["yes_no", "number", "time", "exact", "choice", "relaxed", "vqa", "anls"]
)
def test_very_long_answers_are_read_at_once(kind: str) -> None:
    options = ANIMALS if kind == "choice" else ()
    sample = Sample("q", "Is there a dog?", ("B" if options else "3",), choices=options)
    for piece in HOSTILE:
        response = "a" + (piece * 16_000)[:16_000] + "b"
        started = time.process_time()
        FAMILIES[kind]["lenient"](sample, response)
        assert time.process_time() - started < 0.8, piece


@pytest.mark.parametrize("kind", TYPES)
def test_types(kind: str) -> None:
    found = {response: classify(response) for response in TYPES[kind]}
    assert found == dict.fromkeys(TYPES[kind], kind)


def test_bare_numbers() -> None:
    assert all(map(is_bare_number, ("3", " 3. ", "three", "1,000", "-2", "3.5", "Ten", "３")))
    assert not any(map(is_bare_number, ("", "3 dogs", "A", "3:45", "none", "$3", "3%", "a pair")))


def test_inline_options() -> None:
    lines = "Which?\nA. Mallard\nB. Blue Jay, male\nC. St. Mary's Owl\n<image>"
    assert inline_options(lines) == ("Mallard", "Blue Jay, male", "St. Mary's Owl")
    row = "Find it.\nOptions: A: a, b and c, B: 45°, C: none, D: 9:30 PM"
    assert inline_options(row) == ("a, b and c", "45°", "none", "9:30 PM")
    assert inline_options("How many dogs are there in the image A. Smith took?") == ()


def test_annotators_who_disagree() -> None:
    # 10 annotators: 3 say red. Leaving one of them out, 2/3; leaving another out, 1.
    assert vqa.soft_accuracy("red", ["red"] * 3 + ["blue"] * 7) == pytest.approx(0.9)
    assert vqa.soft_accuracy("red", ["red"] + ["blue"] * 9) == pytest.approx(0.3)
    article = Sample("q", "", ("a",) * 10)
    assert vqa.strict(article, "a").value == 1.0
    assert vqa.strict(article, "").value == vqa.lenient(article, "the").value == 0.0


def test_relaxed_years_and_scales() -> None:
    year = Sample("q", "In which year did sales peak?", ("2013",))
    value = Sample("q", "What is the value of the longest bar?", ("2013",))
    assert relaxed.strict(year, "2100").value == 0.0
    assert relaxed.strict(value, "2100").value == 1.0
    millions = Sample("q", "", ("14,000,000",))
    assert relaxed.lenient(millions, "14 million").value == 1.0
    assert relaxed.strict(millions, "14 million").value == 0.0
    assert relaxed.strict(millions, "$14,600,000").value == 1.0


def test_noon_and_night_on_a_face() -> None:
    afternoon = Sample("q", "", ("15:45",))
    assert clock.lenient(afternoon, "3:45 PM").value == 1.0
    assert clock.lenient(afternoon, "3:45 am").value == 0.0
    near = clock.strict(Sample("q", "", ("03:59",)), "4:00")
    assert near.metrics == {"hour": 1.0, "minute": 1.0, "both": 1.0}
    apart = clock.strict(Sample("q", "", ("04:00",)), "4:59")
    assert apart.metrics == {"hour": 1.0, "minute": 1.0, "both": 0.0}


FOODWEB = ("grass", "frog", "snake", "fly")
# kind, gold, options -> right whatever their form; near, but another answer.
NEAR_MISSES = (
    ("exact", "x > 5", (), ("x > 5", "X>5.", "The answer is x > 5"), ("x < 5", "x >= 5", "x 5")),
    ("exact", "$5", (), ("$5", "5", "5 $"), ("€5", "5 €", "£5")),
    ("exact", "A-", (), ("A-", "a-", "The grade is A-"), ("A", "A+", "B-")),
    ("exact", "A", (), ("A", "a."), ("A-", "A+")),
    ("exact", "C#", (), ("C#", "c#.", "The language is C#"), ("C", "C++")),
    ("exact", "P -> Q", (), ("p -> q.", "P → Q"), ("P > Q", "Q -> P")),
    ("exact", "long- and short-term", (), ("long- and short-term", "long and short-term"), ("long",)),
    ("relaxed", "$5", (), ("$5", "5", "5 dollars", "It costs $5."), ("€5", "5 euros")),
    ("relaxed", "100%", (), ("100%", "100", "98 percent"), ("1", "1.0", "one")),
    ("relaxed", "62%", (), ("62%", "0.62", "62"), ("1", "0.5")),
    ("relaxed", "150%", (), ("1.5", "150%"), ("1", "15")),
    ("relaxed", "5", (), ("5", "five"), ("500%",)),
    ("relaxed", "0.5", (), ("50%", "0.5"), ("500%",)),
    ("number", "0", (), ("nobody", "Nobody can be seen", "none", "nothing", "no dogs", "no one"),
     ("nobody knows", "No one can tell", "nothing is clear", "no clue", "no comment")),
    ("choice", "A", FOODWEB, ("grass", "the grass", "It is grass.", "grass here", "grass, plainly"),
     ("grass snake", "The answer is grass snake", "grass roots")),
    ("choice", "B", FOODWEB, ("a frog", "The frog species", "frog sitting on a leaf", "the frog is"),
     ("frog pond", "It is a frog pond.")),
    ("choice", "D", FOODWEB, ("fly", "a fly", "the adult fly"), ("Fly away", "fly paper")),
)  # fmt: skip


@pytest.mark.parametrize("case", NEAR_MISSES, ids=lambda case: f"{case[0]}-{case[1]}")
def test_lenient_credits_no_near_miss(case: tuple) -> None:  # type: ignore[type-arg]
    kind, gold, options, right, wrong = case
    sample = Sample("q", "", (gold,), choices=options)
    found = {text: FAMILIES[kind]["lenient"](sample, text).value for text in (*right, *wrong)}
    assert found == {**dict.fromkeys(right, 1.0), **dict.fromkeys(wrong, 0.0)}


def test_pathology_reports_kinds_apart() -> None:
    score = SCORERS["pathvqa"]["strict"](Sample("q", "", ("yes",)), "yes")
    assert score.metrics == {"yes_no_accuracy": 1.0, "exact_match": None, "f1": None}
    score = SCORERS["pathvqa"]["lenient"](Sample("q", "", ("foam cells",)), "foam tissue")
    assert score.metrics == {"yes_no_accuracy": None, "exact_match": 0.0, "f1": 0.5}


def test_counts_keep_their_error() -> None:
    score = number.lenient(Sample("q", "", ("7",)), "There are four.")
    assert score.metrics == {"accuracy": 0.0, "squared_error": 9.0}
    assert number.lenient(Sample("q", "", ("7",)), "many").metrics["squared_error"] is None


def test_token_f1() -> None:
    assert phrase.f1("the foam cells", "foam cells and clefts") == pytest.approx(2 * 2 / 6)
    assert phrase.f1("", "x") == phrase.f1("x", "") == 0.0


def test_letters_of_the_release() -> None:
    assert extract_letter("", "ABCD") == ""
    assert extract_letter("d", "ABCD") == ""
    assert extract_letter("A first, then (B), at last C)", "ABCD") == "A"
    assert extract_letter("so (B) beats C)", "ABCD") == "B"


def test_every_task_has_strict_and_lenient() -> None:
    assert len(SCORERS) == 24
    for task, scorers in SCORERS.items():
        assert {"strict", "lenient"} <= set(scorers), task
    programs = {task_of(name) for name in BENCHMARKS}
    assert programs <= set(SCORERS)
    for kind in ("exact", "choice", "number", "yes_no", "time", "vqa", "anls", "relaxed"):
        assert set(FAMILIES[kind]) == {"strict", "lenient"}


@pytest.mark.slow
@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_a_hundred_thousand_rows_take_under_ten_seconds(benchmark: str) -> None:
    from harness import registry

    task = registry.task(task_of(benchmark))
    rows = rows_of(benchmark)
    pairs = [(task.sample(row["sample"], at), row["response"]) for at, row in enumerate(rows)]
    for name, scorer in task.scorers.items():
        started, graded = time.process_time(), 0
        while graded < 20_000:
            for sample, response in pairs:
                scorer(sample, response)
            graded += len(pairs)
        seconds = (time.process_time() - started) * 100_000 / graded
        assert seconds < 30, f"{task.name} under {name}: {seconds:.1f} s for 100,000 rows"


def test_a_guessed_letter_counts_nowhere() -> None:
    docs = [{"id": "validation_Art_1"}, {"id": "validation_Art_2"}, {"id": "validation_Math_1"}]
    task = SCORERS["mmmu"]["lmms_eval"]
    common = {"question_type": "multiple-choice", "options": "['x', 'y']", "answer": "B"}
    scores = [task(Sample("q", "", ("B",), doc=common), text) for text in ("B", "b", "A")]
    assert [score.value for score in scores] == [1.0, None, 0.0]
    assert aggregate("lmms_eval", "mmmu", docs, scores)["mmmu_acc"].value == 0.5
