"""What MMMU's official parser reads in an answer: a letter, or candidates for an open answer.

Behaviour of the official evaluation (https://github.com/MMMU-Benchmark/MMMU, `eval_utils.py`) as
lmms-eval 0.7.3 runs it. Where the original draws a letter by chance, `choice_of` gives None.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

Candidate = str | float

_CUES = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_TRIVIAL = frozenset(":,.!?;'")
_NUMBERS = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),
    re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+"),
    re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])"),
)


def choice_of(response: str, options: Sequence[str]) -> str | None:
    """The letter that the official parser takes; None where it would guess. Capitals only.

    "(B)" before "B " before "B."; the text of an option counts only in more than five words.
    Of several letters the one that stands last wins.

    >>> choice_of("(B) since A is wrong", ["x", "y"])
    'B'
    >>> choice_of("b", ["x", "y"]) is None
    True
    """
    for mark in ",.!?;:'":
        response = response.strip(mark)
    response = f" {response} "
    letters = [chr(ord("A") + at) for at in range(len(options))]
    for form, place in (("({})", "({})"), ("{} ", " {} "), ("{}.", " {} ")):
        found = [letter for letter in letters if form.format(letter) in response]
        if found:
            return max(found, key=lambda letter: response.rfind(place.format(letter)))
    lowered = response.lower()
    if len(response.split()) > 5:
        texts = dict(zip(letters, (option.lower() for option in options), strict=True))
        named = [letter for letter in letters if texts[letter] in lowered]
        if named:
            return max(named, key=lambda letter: lowered.rfind(texts[letter]))
    return None


def _key_phrases(response: str) -> list[str]:
    """The tails after the last cue of each line; the whole answer where there is no cue."""
    response = response.strip().strip(".").lower()
    lines = response.split("\n")
    phrases = []
    for number, line in enumerate(lines):
        # An equation is looked for in the last line only.
        cues = (*_CUES, "=") if number == len(lines) - 1 else _CUES
        shortest = ""
        for cue in cues:
            if cue in line:
                tail = line.rpartition(cue)[2].strip()
                if not shortest or len(tail) < len(shortest):
                    shortest = tail
        if shortest and shortest not in _TRIVIAL:
            phrases.append(shortest)
    return phrases or [response]


def _normal_forms(text: str) -> list[Candidate]:
    """A number rounded to two decimals, or the lower-case text (single letters need a space)."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        text = text.lower()
        return [f" {text}", f"{text} "] if len(text) == 1 else [text]


def open_candidates(response: str) -> list[Candidate]:
    """Everything that the official parser takes as an open answer, without order.

    >>> open_candidates("so x = 1250.0")
    [1250.0]
    """
    phrases = _key_phrases(response)
    numbers = [found for p in phrases for form in _NUMBERS for found in form.findall(p)]
    forms = {form for text in (*phrases, *numbers) for form in _normal_forms(text)}
    return sorted(forms, key=str)


def open_is_right(gold: str | Sequence[str], candidates: Sequence[Candidate]) -> bool:
    """True if a number equals a gold number or a text contains a gold text.

    >>> open_is_right("0.32", open_candidates("0.32")), open_is_right("0.32", [32.0])
    (True, False)
    """
    golds = [gold] if isinstance(gold, str) else list(gold)
    wanted = [form for text in golds for form in _normal_forms(str(text))]
    texts = [form for form in wanted if isinstance(form, str)]
    for given in candidates:
        if isinstance(given, str):
            if any(text in given for text in texts):
                return True
        elif given in wanted:
            return True
    return False
