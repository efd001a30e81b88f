"""Plain text: an answer without its wrapping, so that only what it says is compared.

Wrapping is everything a model adds around an answer: reasoning blocks, HTML and Markdown marks,
capitals, full-width characters, quotes, a final period, "The answer is". Used by the lenient
scorers on both sides, response and gold. `fold` alone (case and width) is used by strict ones.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

_REASONING = re.compile(r"<(think|thinking|analysis|reasoning)>.*?(?:</\1>|\Z)", re.DOTALL)
# Anchored: without it a text of many "<" is searched once from each of its characters.
_REASONING_END = re.compile(r"\A.*</(?:think|thinking|analysis|reasoning)>", re.DOTALL)
_TAG = re.compile(r"</?[a-z][a-z0-9]*\s*/?>|<\|[a-z_]+\|>")
_LATEX_WRAP = re.compile(r"\\(?:boxed|text|mathrm|textbf)\s*\{([^{}]*)\}")
_MARKS = re.compile(r"[*`]|__|\\[()\[\]]|[\u200b-\u200f\u2060\ufeff]")
_QUOTES = str.maketrans({**dict.fromkeys("‘’‛´", "'"), **dict.fromkeys("“”„«»", '"')})
_SPACES = re.compile(r"[^\S\n]+")
_BLANK_LINES = re.compile(r"(?:\n ?){3,}")  # long runs cost later searches quadratic time
_EDGE_BEFORE = " \t\n\"':,;#>"
_EDGE_AFTER = " \t\n\"'.,;:!?"

_COPULA = r"(?:is|are|was|were|would be|should be|must be|seems to be|appears to be|looks like)"
_TELLS = r"(?:says?|reads?|shows?|displays?|depicts?)"
_LEADS = re.compile(
    r"(?:"
    r"(?:maybe|perhaps|possibly|probably|sure|certainly|of course|okay|ok|well"
    r"|so|thus|therefore|hence|overall|in short|finally)"
    r"[,!.:]?\s+"
    r"|(?:based on|looking at|according to|in|from|as seen in) (?:the|this)(?: provided| given)? "
    r"(?:image|picture|photo|photograph|figure|chart|graph|document|table|diagram|infographic)"
    r"(?: provided| shown)?,?\s+"
    r"|i (?:think|believe|guess|see|choose|select|pick|would say|am confident)(?: that)?:?\s+"
    r"|i'd (?:say|guess)(?: that)?:?\s+"
    r"|(?:the |my )?(?:(?:final|correct|best|right|most likely|short) )*"
    r"(?:answer|option|choice|response|solution|result)"
    rf"(?: to (?:the|this|your) question)?\s*(?:{_COPULA}\s*:?|:|=)\s*"
    rf"|(?:it|this|that|he|she|they|these|those|there)(?:'s|'re| {_COPULA}| {_TELLS})\s*:?\s+"
    rf"|(?:the|this|that|my|its|his|her|their) (?:[^\s.,;!?]+ ){{1,8}}?(?:{_COPULA}|{_TELLS})"
    r"\s*:?\s+"
    r")"
)
_REASON = re.compile(
    r"(?:[,.;:(\n]\s*| )(?:because|since|as (?:it|the|there|you)|which (?:is|are|was)|based on)\b.*"
    r"|[,.;(\n]\s*(?:it|this|that|there|i|the|so|not|as)\b.*",
    re.DOTALL,
)
_SEEN = re.compile(
    r" (?:is|are|was|were|can be) (?:shown|seen|visible|displayed|present|written|depicted|printed)"
    r"\b.*",
    re.DOTALL,
)
_SECOND_THOUGHT = re.compile(
    r"(?:[,;(–—]\s*|\bbut\s+)(?:but\s+)?(?:(?:it|this|that)\s+)?"
    r"(?:maybe|perhaps|possibly|(?:might|could|may)\s+(?:also\s+)?be)\b"
)
_MOST_LEADS = 4


def fold(text: str) -> str:
    """`text` without the differences of case and width; idempotent under any change of case.

    >>> fold("Ｂ Straße") == fold("b STRASSE")
    True
    """
    if text.isascii():
        return text.lower()
    # Upper case first: some letters (dotless i, long s) only meet their pair there.
    wide = unicodedata.normalize("NFKC", text.upper())
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", wide.upper()).casefold())


def trim(text: str) -> str:
    """`text` without white space around it and periods at its end.

    >>> trim(" B. ")
    'B'
    """
    return text.strip().rstrip(". \t\n\r")


def without_reasoning(text: str) -> str:
    """A folded text without its reasoning blocks; one that is never closed leaves no answer.

    >>> without_reasoning("<think>a cat?</think>b"), without_reasoning("a cat?</think>b")
    (' b', ' b')
    """
    return _REASONING_END.sub(" ", _REASONING.sub(" ", text))


def plain(text: str) -> str:
    """`text` in lower case without reasoning, markup, quotes around it or marks at its end.

    >>> plain("<think>hmm</think> **Northern Cardinal.**")
    'northern cardinal'
    """
    text = fold(text).translate(_QUOTES)
    if "<" in text:
        text = _TAG.sub("", without_reasoning(text))
    if "\\" in text:
        text = _LATEX_WRAP.sub(r"\1", text)
    text = _MARKS.sub("", text)
    text = _BLANK_LINES.sub("\n\n", _SPACES.sub(" ", text))
    return text.lstrip(_EDGE_BEFORE).rstrip(_EDGE_AFTER)


def has_second_thought(text: str) -> bool:
    """True where a plain text answers and then brings up something else.

    >>> has_second_thought("3, maybe 4"), has_second_thought("it could be 4")
    (True, False)
    """
    return _SECOND_THOUGHT.search(text) is not None


@lru_cache(maxsize=65536)
def plain_gold(text: str) -> str:
    """`plain`, remembered: golds come back once per checkpoint."""
    return plain(text)


def readings(text: str) -> tuple[str, ...]:
    """What a plain answer may be meant to say, the whole first, then less and less of it.

    Phrases that lead to an answer and reasons that follow it are taken away, never words in
    between; so every reading is a piece of the answer as given.

    >>> readings("the brand on the mug is kona roasters")
    ('the brand on the mug is kona roasters', 'kona roasters')
    >>> readings("a bus, not a car")
    ('a bus, not a car', 'a bus')
    """
    found = [text]
    for _ in range(_MOST_LEADS):
        match = _LEADS.match(text)
        if not match or match.end() == len(text):
            break
        text = text[match.end() :].lstrip(_EDGE_BEFORE)
        found.append(text)
    for reading in tuple(found):
        for tail in (_REASON, _SEEN):
            match = tail.search(reading)
            if match and match.start() > 0:
                found.append(reading[: match.start()].rstrip(_EDGE_AFTER))
    return tuple(dict.fromkeys(reading for reading in found if reading))
