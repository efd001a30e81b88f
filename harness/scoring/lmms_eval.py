"""The scorers of lmms-eval 0.7.3: what that program gives for an answer, oddities included.

Written from the behaviour of the released package and held to it by `tests/golden/*.jsonl`.
Use them to reproduce published numbers, never to judge a model: `strict` and `lenient` mend what
is odd here. Every scorer reads the native columns of its data set from `sample.doc`, as the
program does, and names its metrics as the program does.

Two steps of the program's frame are part of every score: reasoning blocks are cut out (its
default `--reasoning_tags`) and white space around the answer is dropped, both after the task's
own filter where it has one.
"""

from __future__ import annotations

import ast
import re
import statistics
import string
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from rapidfuzz.distance import Levenshtein

from harness.number_words import TO_TWENTY
from harness.scoring import eval_ai
from harness.scoring.mmmu_answer import choice_of, open_candidates, open_is_right
from harness.types import Sample, Score, Scorer

_REASONING_TAGS = (("<think>", "</think>"), ("<analysis>", "</analysis>"))
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)

Rule = Callable[[Mapping[str, Any], str], Score]
"""(native columns, response) -> score: a scorer before the program's frame is put around it."""


def strip_reasoning(text: str) -> str:
    """`text` without its reasoning blocks.

    A block that is never closed stays; a block that is closed but never opened (the prompt may
    have opened it) ends at its last closing tag.

    >>> strip_reasoning("<think>a cat?</think> B")
    'B'
    >>> strip_reasoning("a cat?</think>B")
    'B'
    >>> strip_reasoning("<think>a cat? B")
    '<think>a cat? B'
    """
    for opening, closing in _REASONING_TAGS:
        if closing not in text:
            continue
        while True:
            start = text.find(opening)
            end = text.find(closing, start)
            if start == -1 or end == -1:
                break
            text = text[:start] + text[end + len(closing) :]
        if opening not in text:
            text = text.rpartition(closing)[2]
    return text.strip()


def _framed(rule: Rule) -> Scorer:
    def scorer(sample: Sample, response: str) -> Score:
        return rule(sample.doc, strip_reasoning(response))

    return scorer


def _only(metric: str, value: float, parsed: object = None) -> Score:
    return Score(value, parsed, {metric: value})


def equal_words(prediction: str, gold: str) -> bool:
    """Equality of the program's `exact_match`: case and ASCII punctuation ignored.

    numpy string arrays stand behind the original: they keep the width of the text when they
    lower it and lose NULs at its end.

    >>> equal_words("(B)", "b"), equal_words("t shirt", "t-shirt")
    (True, False)
    """
    return _fold(prediction) == _fold(gold)


def _fold(text: str) -> str:
    lowered = text.rstrip("\0").lower()[: len(text)]
    return lowered.rstrip("\0").translate(_NO_PUNCTUATION).rstrip("\0")


# --- multiple choice -------------------------------------------------------------------------

_CUES = (
    *(f"{lead}answer is" for lead in ("the ", "", "the correct ", "correct ")),
    *(f"{lead} {noun} is" for noun in ("answer", "option") for lead in ("the best", "best")),
    *(f"{lead}correct {noun} is" for noun in ("option", "choice") for lead in ("the ", "")),
    *("the choice is", "choice is", "my answer is", "my choice is"),
    *("i choose", "i select", "i pick"),
    *("옵션", "정답은", "답은", "답:", "答案是", "答案为", "选", "答えは"),
)


def extract_letter(response: str, letters: Sequence[str]) -> str:
    """The program's shared letter extractor; "" where there is no letter. Capitals only.

    The first form that occurs wins: at the start, at the end, after a cue, "(A)", "A.", "A:",
    "A)", "A ", and at last any capital inside a word. Within a form the last place wins; after a
    cue the first occurrence of each letter counts.

    >>> extract_letter("The correct answer is (B).", "ABCD")
    'B'
    >>> extract_letter("correct answer is B, not A or C", "ABCD")
    'C'
    """
    text = response.strip()
    for mark in ",.!?;:'\"":
        text = text.strip(mark)
    bare = text.strip()
    for letter in letters:
        if bare.startswith(letter) and (len(bare) == 1 or not bare[1].isalpha()):
            return letter
    for letter in letters:
        if bare.endswith(letter) and (len(bare) == 1 or not bare[-2].isalpha()):
            return letter
    text = f" {text} "
    if bare and (found := _after_cues(text, letters)):
        return max(found)[1]
    for form in ("({})", "{}.", "{}:", "{})", "{} ", "{}"):
        places = [(text.rfind(form.format(letter)), letter) for letter in letters]
        place, letter = max(places, key=lambda item: item[0], default=(-1, ""))
        if place != -1:
            return letter
    return ""


def _after_cues(text: str, letters: Sequence[str]) -> list[tuple[int, str]]:
    lowered = text.lower()
    found = []
    for cue in _CUES:
        at = lowered.find(cue)
        if at != -1:
            places = ((text.find(letter, at + len(cue)), letter) for letter in letters)
            found += [place for place in places if place[0] != -1]
    return found


_AI2D_LETTER = re.compile(r"\s*([A-Z])\.")


def ai2d_rule(doc: Mapping[str, Any], response: str, strip: Callable[[str], str]) -> Score:
    """AI2D: a capital letter and a period at the start, else the whole answer, must equal."""
    match = _AI2D_LETTER.match(response)
    parsed = strip(match[1] if match else response)
    gold = chr(ord("A") + int(doc["answer"]))
    return _only("exact_match", float(equal_words(parsed, gold)), parsed)


def _ai2d(sample: Sample, response: str) -> Score:
    return ai2d_rule(sample.doc, response, strip_reasoning)


def seedbench_rule(doc: Mapping[str, Any], response: str) -> Score:
    """SEED-Bench: the first character, whatever follows."""
    parsed = response.strip()[:1]
    value = float(parsed.lower().strip() == str(doc["answer"]).lower().strip())
    metrics: dict[str, float | None] = {"seed_all": value, "seed_image": None, "seed_video": None}
    metrics[f"seed_{doc.get('data_type', 'image')}"] = value
    return Score(value, parsed, metrics)


def _scienceqa(doc: Mapping[str, Any], response: str) -> Score:
    gold = chr(ord("a") + int(doc["answer"]))
    if response.lower() == gold:
        return _only("exact_match", 1.0)
    if len(response) >= 2 and response[0].isupper() and response[1] == ".":
        return _only("exact_match", float(response[0].lower() == gold))
    return _only("exact_match", 0.0)


def mmstar_score(doc: Mapping[str, Any], value: float, parsed: object = None) -> Score:
    """A sample of MMStar counts under `average` and under its own category."""
    return Score(value, parsed, {"average": value, str(doc.get("category", "")): value})


def _mmstar(doc: Mapping[str, Any], response: str) -> Score:
    letter = extract_letter(response, "ABCD")
    return mmstar_score(doc, float(letter == str(doc["answer"]).strip().upper()), letter)


def _realworldqa(doc: Mapping[str, Any], response: str) -> Score:
    gold = str(doc["answer"]).strip()
    if gold.upper() in ("A", "B", "C", "D"):
        letter = extract_letter(response, "ABCD")
        return _only("exact_match", float(letter == gold.upper()), letter)
    value = float(response.lower().strip().rstrip(".") == gold.lower())
    return _only("exact_match", value)


_MMBENCH_MARKS = (
    *((("", after)) for after in (".", ",", ":", ")", ").")),
    *((("(", after)) for after in (")", ").")),
    *(((":", after)) for after in ("", ",", ".", ")", ").")),
)


def mmbench_prefetch(response: str, options: Mapping[str, str]) -> str:
    """MMBench's first step: a letter that stands alone, else the only option text that occurs.

    `options`: letter A-D -> text. "" = undecided (the original then asks a judge).

    >>> mmbench_prefetch("A. banana", {"A": "apple", "B": "banana"})
    'A'
    >>> mmbench_prefetch("it is a banana", {"A": "apple", "B": "banana"})
    'B'
    """
    return _mmbench_letter(response) or _mmbench_text(response, options)


def _mmbench_letter(response: str) -> str:
    if "Failed to obtain answer via API" in response:
        return ""
    tokens = response.split()
    alone = [letter for letter in "ABCDE" if letter in tokens]
    # "A" in a sentence of more than three words is taken for the article.
    if len(alone) == 1 and not (alone == ["A"] and len(tokens) > 3):
        return alone[0]
    for before, after in _MMBENCH_MARKS:
        marked = [letter for letter in "ABCDE" if f"{before}{letter}{after}" in tokens]
        if len(marked) == 1:
            return marked[0]
    return ""


def _mmbench_text(response: str, options: Mapping[str, str]) -> str:
    lowered = response.lower()
    found = [letter for letter, text in options.items() if text.lower() in lowered]
    return found[0] if len(found) == 1 else ""


def mmbench_options(doc: Mapping[str, Any]) -> dict[str, str]:
    """The options as MMBench sees them: a missing column is the text "nan", a null is left out."""
    given = {letter: doc.get(letter, "nan") for letter in "ABCD"}
    # A float that differs from itself is NaN: pandas' mark for a missing cell.
    return {key: str(text) for key, text in given.items() if text is not None and text == text}


def _mmbench(doc: Mapping[str, Any], response: str) -> Score:
    options = mmbench_options(doc)
    letter = mmbench_prefetch(response, options)
    if not letter:
        letter = extract_letter(response, sorted(options) or "ABCDEFGH")
    return _only("gpt_eval_score", float(bool(letter) and letter == doc["answer"]), letter)


@lru_cache(maxsize=8192)
def _options_of(literal: str) -> tuple[str, ...]:
    """MMMU keeps its list of options as the text of a Python list."""
    try:
        return tuple(str(option) for option in ast.literal_eval(literal))
    except (ValueError, SyntaxError, TypeError):
        return ()


def _mmmu(doc: Mapping[str, Any], response: str) -> Score:
    if doc["question_type"] == "multiple-choice":
        options = doc["options"]
        texts = _options_of(options) if isinstance(options, str) else tuple(map(str, options))
        letter = choice_of(response, texts)
        if letter is None:  # the program draws a letter by chance: nothing to reproduce
            return Score(None, None, {"mmmu_acc": None})
        return _only("mmmu_acc", float(letter == doc["answer"]), letter)
    candidates = open_candidates(response)
    return _only("mmmu_acc", float(open_is_right(doc["answer"], candidates)), candidates)


# --- short answers ---------------------------------------------------------------------------


def _leave_one_out(matches: Sequence[bool]) -> float:
    """Mean over annotators of min(1, agreeing others / 3)."""
    if not matches:
        return 0.0
    agreeing = sum(matches)
    return statistics.fmean(min(1.0, (agreeing - match) / 3) for match in matches)


def textvqa_rule(doc: Mapping[str, Any], response: str) -> Score:
    """TextVQA: soft accuracy over the ten annotators."""
    parsed = eval_ai.normalise_textvqa(response)
    golds = [eval_ai.normalise_textvqa(str(gold)) for gold in doc.get("answers") or ()]
    return _only("exact_match", _leave_one_out([gold == parsed for gold in golds]), parsed)


def _vqav2(doc: Mapping[str, Any], response: str) -> Score:
    parsed = eval_ai.normalise_vqav2(response)
    answers = [
        {**given, "answer": eval_ai.normalise_vqav2(str(given["answer"]))}
        for given in doc.get("answers") or ()
    ]
    if not answers:
        return _only("exact_match", 0.0, parsed)
    # "The others" are those whose record differs, so two identical records leave together.
    matching = [given for given in answers if given["answer"] == parsed]
    shares = []
    for given in answers:
        agreeing = sum(other != given for other in matching)
        shares.append(min(1.0, agreeing / 3))
    return _only("exact_match", statistics.fmean(shares), parsed)


def chartqa_rule(doc: Mapping[str, Any], response: str) -> Score:
    """ChartQA: within 5 % where Python reads both sides as numbers, else equal but for case."""
    value = float(_relaxed(response, str(doc["answer"])))
    human = doc.get("type") == "human_test"
    splits = {
        "relaxed_human_split": value if human else None,
        "relaxed_augmented_split": None if human else value,
    }
    return Score(value, None, {"relaxed_overall": value, **splits})


def _relaxed(prediction: str, gold: str) -> bool:
    given, wanted = _as_float(prediction), _as_float(gold)
    if given is not None and wanted:
        return abs(given - wanted) / abs(wanted) <= 0.05
    return prediction.lower() == gold.lower()


def _as_float(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def anls_rule(doc: Mapping[str, Any], response: str) -> Score:
    """DocVQA, InfographicVQA: 1 - distance / *raw* length of the nearest gold; 0 below 0.5."""
    given = " ".join(response.lower().split())
    nearest = 1.0
    for gold in map(str, doc.get("answers") or ()):
        length = max(len(gold.upper()), len(response.upper()))
        distance = Levenshtein.distance(" ".join(gold.lower().split()), given)
        nearest = min(nearest, distance / length if length else 0.0)
    similarity = 1 - nearest
    return _only("anls", similarity if similarity >= 0.5 else 0.0)


_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: 0x20}


def _ocrbench(doc: Mapping[str, Any], response: str) -> Score:
    golds = doc["answer"] if isinstance(doc["answer"], list | tuple) else [doc["answer"]]
    if doc.get("dataset") == "HME100k":
        answer = response.strip().replace("\n", " ").replace(" ", "")
        wanted = [str(g).strip().replace("\n", " ").replace(" ", "") for g in golds]
    else:
        answer = _ocr_text(response)
        wanted = [_ocr_text(str(gold)) for gold in golds]
    return _only("ocrbench_accuracy", float(any(gold in answer for gold in wanted)))


def _ocr_text(text: str) -> str:
    return text.translate(_FULL_WIDTH).lower().strip().replace("\n", " ")


_COUNT_WORDS = {word: str(number) for number, word in enumerate(TO_TWENTY)} | {"none": "0"}


def _countbench(doc: Mapping[str, Any], response: str) -> Score:
    parsed = _count_text(response)
    return _only("acc", float(parsed == _count_text(str(doc["number"]))), parsed)


def _count_text(text: str) -> str:
    plain = text.strip().lower()
    return _COUNT_WORDS.get(plain, plain)


def _gqa(doc: Mapping[str, Any], response: str) -> Score:
    return _only("exact_match", float(equal_words(response, str(doc["answer"]))))


# --- yes or no -------------------------------------------------------------------------------


def _pope(doc: Mapping[str, Any], response: str) -> Score:
    parsed = response.lower().strip()
    return _only("pope_accuracy", float(parsed == str(doc["answer"]).lower().strip()), parsed)


MME_COGNITION = (
    "commonsense_reasoning",
    "numerical_calculation",
    "text_translation",
    "code_reasoning",
)
MME_PERCEPTION = (
    *("existence", "count", "position", "color", "posters"),
    *("celebrity", "scene", "landmark", "artwork", "OCR"),
)


def _mme(doc: Mapping[str, Any], response: str) -> Score:
    parsed = _mme_label(response)
    value = float(parsed == str(doc["answer"]).lower().strip().replace(".", ""))
    perception = doc.get("category") in MME_PERCEPTION
    metrics = {
        "mme_perception_score": value if perception else None,
        "mme_cognition_score": None if perception else value,
    }
    return Score(value, parsed, metrics)


def _mme_label(response: str) -> str:
    plain = response.lower().strip().replace(".", "")
    if len(plain) == 1:
        return {"y": "yes", "n": "no"}.get(plain, "other")
    start = plain[:4]
    return "yes" if "yes" in start else "no" if "no" in start else "other"


SCORERS: Mapping[str, Scorer] = {
    "ai2d": _ai2d,
    "chartqa": _framed(chartqa_rule),
    "countbench": _framed(_countbench),
    "docvqa": _framed(anls_rule),
    "gqa": _framed(_gqa),
    "infovqa": _framed(anls_rule),
    "mmbench": _framed(_mmbench),
    "mme": _framed(_mme),
    "mmmu": _framed(_mmmu),
    "mmstar": _framed(_mmstar),
    "ocrbench": _framed(_ocrbench),
    "pope": _framed(_pope),
    "realworldqa": _framed(_realworldqa),
    "scienceqa": _framed(_scienceqa),
    "seedbench": _framed(seedbench_rule),
    "textvqa": _framed(textvqa_rule),
    "vqav2": _framed(_vqav2),
}
"""Our task name -> what lmms-eval 0.7.3 gives."""
