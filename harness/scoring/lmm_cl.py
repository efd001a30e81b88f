"""The scorers of LMM_CL at 0affbdc: the fork of lmms-eval behind arXiv 2510.08564.

Written from the behaviour of that program and held to it by `tests/golden/*.jsonl`; use them to
reproduce the study's numbers, never to judge a model. Every scorer reads the native columns from
`sample.doc` and names its metrics as the program does. White space around an answer is dropped,
reasoning blocks are not. Six tasks score as in lmms-eval 0.7.3 apart from that.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from harness.number_words import TO_TWENTY
from harness.scoring import lmms_eval
from harness.types import Sample, Score, Scorer

_DIGITS = re.compile(r"\d+")
# Python refuses to read integers of more digits than this; the program would stop with an error.
_MOST_DIGITS = 4300


def _framed(rule: lmms_eval.Rule) -> Scorer:
    def scorer(sample: Sample, response: str) -> Score:
        return rule(sample.doc, response.strip())

    return scorer


def _only(metric: str, value: float, parsed: object = None) -> Score:
    return Score(value, parsed, {metric: value})


# --- letters ---------------------------------------------------------------------------------

_LONE_LETTER = re.compile(r"\b([A-Za-z])[.)]?\b")


def _cub200(doc: Mapping[str, Any], response: str) -> Score:
    match = _LONE_LETTER.search(response)
    if match:
        parsed = match[1].lower()
    elif response[:1].isalpha():
        parsed = response[0].lower()
    else:
        parsed = response.lower()
    return _only("acc", float(parsed == str(doc["answer"]).lower()), parsed)


def _scienceqa(doc: Mapping[str, Any], response: str) -> Score:
    # The "B. text" branch tests for a capital after lowering the text: it never fires.
    gold = chr(ord("a") + int(doc["answer"]))
    return _only("exact_match", float(response.lower() == gold))


def _mmstar(doc: Mapping[str, Any], response: str) -> Score:
    gold = str(doc["answer"]).lower().strip().replace("\n", " ")
    text = response.lower().strip().replace("\n", " ")
    value = float(
        bool(gold)
        and any(
            text.startswith(lead) and text[len(lead) : len(lead) + 1] == gold
            for lead in ("", "(", "option ", "the answer is ")
        )
    )
    return lmms_eval.mmstar_score(doc, value)


_INLINE_OPTION = re.compile(r"\b[A-Z]\.\s+([^\n]*)")
_NOT_WORD = re.compile(r"[^\w\s]")


@lru_cache(maxsize=8192)
def _inline_options(question: str) -> Mapping[str, str]:
    """Option text -> letter by order, whatever letters the question gives them."""
    texts = [text.strip() for text in _INLINE_OPTION.findall(question)]
    return {text: chr(ord("A") + at) for at, text in enumerate(texts)}


def _realworldqa(sample: Sample, response: str) -> Score:
    lowered = response.lower()
    # Filter 1: a response that is nothing but a number word to ten (not stripped yet).
    if lowered in TO_TWENTY[:11]:
        response = str(TO_TWENTY.index(lowered))
    # Filter 2: the option text that stands first; of several at one place, the first option.
    parsed = _NOT_WORD.sub("", response).strip()
    options = _inline_options(str(sample.doc["question"]))
    places = [(parsed.find(text), at) for at, text in enumerate(options) if text in parsed]
    if places:
        parsed = list(options.values())[min(places)[1]]
    value = float(lmms_eval.equal_words(parsed, str(sample.doc["answer"])))
    return _only("exact_match", value, parsed)


# --- counts ----------------------------------------------------------------------------------


def _first_integer(text: str) -> int | None:
    match = _DIGITS.search(text)
    return int(match[0]) if match and len(match[0]) <= _MOST_DIGITS else None


def pixmo_count_of(text: str) -> int | None:
    """Periods deleted, number words replaced wherever they occur, first digits taken.

    >>> pixmo_count_of("seventeen"), pixmo_count_of("someone"), pixmo_count_of("1.5")
    (7, 1, 15)
    """
    text = text.lower().replace(".", "")
    for number, word in enumerate(TO_TWENTY):
        if word in text:
            text = text.replace(word, str(number))
    return _first_integer(text)


def countbench_count_of(text: str) -> int | None:
    """Periods deleted, first digits taken; else the smallest number word that occurs anywhere.

    >>> countbench_count_of("seventeen, not 4."), countbench_count_of("none")
    (4, 1)
    """
    text = text.lower().replace(".", "")
    if _DIGITS.search(text):
        return _first_integer(text)
    return next((number for number, word in enumerate(TO_TWENTY) if word in text), None)


@lru_cache(maxsize=65536)
def _pixmo_gold(answer: str) -> int | None:
    return pixmo_count_of(answer)


def _pixmo_count(sample: Sample, response: str) -> Score:
    parsed = pixmo_count_of(response.strip())
    # Sources without the sentence column (allenai/pixmo-count) still have the count.
    gold = _pixmo_gold(str(sample.doc.get("answer", sample.answers[0] if sample.answers else "")))
    value = float(parsed is not None and parsed == gold)
    return _only("pixmocount_accuracy", value, parsed)


def _countbench(doc: Mapping[str, Any], response: str) -> Score:
    parsed = countbench_count_of(response)
    value = float(parsed is not None and parsed == doc["number"])
    return _only("countbench_accuracy", value, parsed)


# --- clocks ----------------------------------------------------------------------------------

_HOUR_MINUTE = re.compile(r"(\d{1,2}):(\d{1,2})")


def clock_of(text: str) -> tuple[int, int] | None:
    """(hour, minute) as written, not checked for range; None where two numbers are missing.

    >>> clock_of("It is 3:45 p.m."), clock_of("10 past 4"), clock_of("3.45")
    ((3, 45), (10, 4), None)
    """
    text = text.lower().replace(".", "")
    match = _HOUR_MINUTE.search(text)
    numbers = list(match.groups()) if match else _DIGITS.findall(text)[:2]
    if len(numbers) < 2 or max(map(len, numbers)) > _MOST_DIGITS:
        return None
    return int(numbers[0]), int(numbers[1])


def _clock(doc: Mapping[str, Any], response: str) -> Score:
    given, wanted = clock_of(response), clock_of(str(doc["answer"]))
    hour = minute = False
    if given and wanted:
        hour = given[0] == wanted[0]
        # 59 apart is "one minute apart over the full hour", but the hour is not carried.
        minute = abs(given[1] - wanted[1]) in (0, 1, 59)
    both = float(hour and minute)
    metrics = {
        "hour_accuracy": float(hour),
        "minute_accuracy": float(minute),
        "both_accuracy": both,
    }
    return Score(both, list(given) if given else [None, None], metrics)


# --- PathVQA ---------------------------------------------------------------------------------

_NOT_LETTER = re.compile("[^a-zA-Z ]")
_BINARY_STARTS = tuple(
    f"{word} "
    for word in (
        *("is", "are", "was", "were", "does", "do", "did", "can", "could", "would", "should"),
        *("has", "have", "had", "will", "shall", "am i"),
    )
)


def _words(text: str) -> list[str]:
    return _NOT_LETTER.sub("", text).lower().split()


def _pathvqa(doc: Mapping[str, Any], response: str) -> Score:
    answer = str(doc["answer"])
    given, wanted = Counter(_words(response)), Counter(_words(answer))
    right = sum(count for word, count in given.items() if word in wanted)
    missed = sum(count for word, count in wanted.items() if word not in given)
    total = given.total()
    exact = sum(word in given for word in wanted) / total if total else 0.0
    f1 = 0.0
    if right:
        precision, recall = right / total, right / (right + missed)
        f1 = 2 * precision * recall / (precision + recall)
    binary: float | None = None
    if str(doc.get("question", "")).lower().strip().startswith(_BINARY_STARTS):
        binary = float(response.lower().strip() == answer.lower().strip())
    metrics: dict[str, float | None] = {
        "pathvqa_exact_match": exact,
        "pathvqa_f1": f1,
        "pathvqa_binary_accuracy": binary,
    }
    for order in (1, 2, 3):
        metrics[f"pathvqa_bleu{order}"] = _bleu(response, answer, order)
    return Score(exact, None, metrics)


def _bleu(candidate: str, reference: str, order: int) -> float:
    """BLEU of PathVQA's official script: lengths in characters, a precision of 0 is skipped."""
    if not candidate:
        return 0.0
    penalty = min(1.0, math.exp(1 - len(reference) / len(candidate)))
    log_mean = 0.0
    for n in range(1, order + 1):
        precision = _clipped_precision(candidate, reference, n)
        if precision:
            log_mean += math.log(precision) / order
    return penalty * math.exp(log_mean)


def _clipped_precision(candidate: str, reference: str, n: int) -> float:
    given, wanted = _ngrams(candidate, n), _ngrams(reference, n)
    total = given.total()
    return (given & wanted).total() / total if total else 0.0


@lru_cache(maxsize=65536)
def _ngrams(text: str, n: int) -> Counter[tuple[str, ...]]:
    words = _words(text)
    return Counter(tuple(words[at : at + n]) for at in range(len(words) - n + 1))


# --- text ------------------------------------------------------------------------------------


def _ocrbench(doc: Mapping[str, Any], response: str) -> Score:
    golds = doc["answer"] if isinstance(doc["answer"], list | tuple) else [doc["answer"]]
    text = response.lower().strip().replace("\n", " ")
    if doc.get("dataset") == "HME100k":
        # The answer is in lower case by now and the gold is not.
        text = text.replace(" ", "")
        wanted = [str(gold).strip().replace("\n", " ").replace(" ", "") for gold in golds]
    else:
        wanted = [str(gold).lower().strip().replace("\n", " ") for gold in golds]
    return _only("ocrbench_accuracy", float(any(gold in text for gold in wanted)))


def _no_tags(rule: Callable[[Mapping[str, Any], str, Callable[[str], str]], Score]) -> Scorer:
    def scorer(sample: Sample, response: str) -> Score:
        return rule(sample.doc, response, str.strip)

    return scorer


SCORERS: Mapping[str, Scorer] = {
    "ai2d": _no_tags(lmms_eval.ai2d_rule),
    "chartqa": _framed(lmms_eval.chartqa_rule),
    "cococlock": _framed(_clock),
    "countbench": _framed(_countbench),
    "cub200": _framed(_cub200),
    "docvqa": _framed(lmms_eval.anls_rule),
    "infovqa": _framed(lmms_eval.anls_rule),
    "mmstar": _framed(_mmstar),
    "ocrbench": _framed(_ocrbench),
    "openimgclock": _framed(_clock),
    "pathvqa": _framed(_pathvqa),
    "pixmo_count": _pixmo_count,
    "realworldqa": _realworldqa,
    "scienceqa": _framed(_scienceqa),
    "seedbench": _framed(lmms_eval.seedbench_rule),
    "textvqa": _framed(lmms_eval.textvqa_rule),
    "timeclock": _framed(_clock),
}
"""Our task name -> what LMM_CL at 0affbdc gives."""
