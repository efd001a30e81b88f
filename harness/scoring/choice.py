"""Choices: the option that an answer names, by its letter or by its text.

`read` looks for the most explicit sign first: the bare letter, the text of an option, a letter
that leads ("B. cat"), a cue ("the answer is B"), a marked letter ("(B)"), at last a letter or an
option text inside a sentence. Two options at one level are a hedge and mean none. Capitals play
no part, so the words "a" and "I" count as letters only where they cannot be words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from harness.scoring.phrase import tokens
from harness.scoring.plain import fold, plain, plain_gold, trim
from harness.types import Sample, Score

Options = tuple[str, ...]

_BARE = re.compile(r"[(\[]?([a-z])[)\]]?[.:)]?")
_LEAD = re.compile(
    r"(?:[(\[]([a-z])[)\]][.:,]?|([a-z])(?:[)\]][.:,]?|[.:,](?=\s)|\s*[-–—=](?=\s)|\n))\s*"
)
_LEAD_WORD = re.compile(r"([a-z])\s+(.+)", re.DOTALL)
_LETTER_LIST = re.compile(
    r"(?<![\w'])[(\[]?([a-z])[)\]]?\.?(?:\s*(?:,|/|&|\bor\b|\band\b)\s*)+"
    r"(?:(?:option|choice|answer)\s+)?[(\[]?([a-z])[)\]]?(?![\w'])(?!\s+(?:think|believe|am|see|would)\b)"
)
_REFUSED = re.compile(
    r"[(\[]?(?<![\w'])\w+[)\]]?\s+(?:is|are)\s+(?:wrong|incorrect|false|not\b)[^.;,:\n]*"
    r"|\b(?:not|n't|isn't|cannot be|rather than|instead of|neither|nor|never|except)\b"
    r"[^.;:\n]*?(?=\bbut\b|\bso\b|[.;:\n]|$)"
)
_AFTER_LETTER = r"[)\]\"']*(?![\w'])(?!\s+(?!because|since|as|and|or|is|which)[a-z])"
_CUE = re.compile(
    r"\b(?:answer|choice|letter|choose|pick|select|go with)\b"
    r"(?:\s+(?:is|would be|should be|must be|option|choice|letter)\b)*\s*[:=]?\s*"
    r"(?:(?:option|choice|letter)\s+)?[(\[\"']*([a-z])" + _AFTER_LETTER
)
_CORRECT = re.compile(
    r"(?<![\w'])[(\[]?([a-z])[)\]]?\s+(?:is|would be)\s+(?:the\s+)?"
    r"(?:correct|right|best|answer)\b|\b(?:option|choice)\s+[(\[\"']*([a-z])" + _AFTER_LETTER
)
_MARKED = re.compile(r"[(\[]([a-z])[)\]]|(?<![\w'.])([a-z])[.):](?=\s|$)")
_FIRST_WORD = re.compile(r"([a-z])(?=\s+(?:because|since|as|is)\b)")
_LAST_WORD = re.compile(r"(?:\bis|\bbe|[:=])\s+([a-z])$")
_INLINE = re.compile(r"(?:^|[\n,;]|\boptions?:|\bchoices:)\s*\(?([A-Z])[.:)]\s*", re.IGNORECASE)
_NEVER_WORDS = frozenset("bcdefghjklmnopqrstuvwxyz")


@lru_cache(maxsize=16384)
def inline_options(question: str) -> Options:
    """The option texts that stand in a question, in order; () where there are fewer than two.

    Lettered A, B, C, ... one per line, or after "Options:" and separated by commas.

    >>> inline_options("Which bird?\\nA. Mallard\\nB. Blue Jay\\n<image>")
    ('Mallard', 'Blue Jay')
    >>> inline_options("Find x.\\nOptions: A: 30°, B: 45°, C: 60°")
    ('30°', '45°', '60°')
    """
    lines = question.replace("<image>", "").strip()
    wanted, marks = ord("A"), []
    for match in _INLINE.finditer(lines):
        if match[1] == chr(wanted):
            marks.append(match)
            wanted += 1
    if len(marks) < 2:
        return ()
    ends = [following.start() for following in marks[1:]] + [len(lines)]
    pieces = [lines[mark.end() : end] for mark, end in zip(marks, ends, strict=True)]
    return tuple(piece.strip().split("\n")[0].rstrip(" ,;") for piece in pieces)


@lru_cache(maxsize=65536)
def _option_tokens(options: Options) -> tuple[tuple[str, ...], ...]:
    return tuple(tokens(plain(option)) for option in options)


@lru_cache(maxsize=65536)
def _longest_first(options: Options) -> tuple[tuple[int, str], ...]:
    phrases = [(at, " ".join(words)) for at, words in enumerate(_option_tokens(options)) if words]
    return tuple(sorted(phrases, key=lambda item: -len(item[1])))


def _letter(index: int) -> str:
    return chr(ord("A") + index)


def _named(text: str, options: Options) -> tuple[set[int], str]:
    """Options whose text occurs in a plain text, and the words that are left without them.

    A text inside the text of a longer option that occurs ("cat" in "black cat") does not count.
    """
    rest = f" {' '.join(tokens(text))} "
    found = set()
    for at, phrase in _longest_first(options):
        spaced = f" {phrase} "
        if spaced in rest:
            found.add(at)
            rest = rest.replace(spaced, " | ")
    return found, rest


def read(response: str, options: Sequence[str] = ()) -> str | None:
    """The capital letter of the option that a response names; None for none, or for a hedge.

    `options`: texts in order; without them the letters A to Z are options without text.

    >>> [read(r, ["cat", "dog"]) for r in ("(B)", "b. dog", "It is a dog.", "The answer is B")]
    ['B', 'B', 'B', 'B']
    >>> [read(r, ["cat", "dog"]) for r in ("A or B", "a bird", "", "not B", "A. dog")]
    [None, None, None, None, None]
    """
    text = plain(response)
    if not text:
        return None
    given = tuple(options)
    bare = _BARE.fullmatch(text)
    if bare:
        return bare[1].upper()
    words = tokens(text)
    equal = [at for at, option in enumerate(_option_tokens(given)) if option == words and words]
    equal = equal or [at for at, option in enumerate(given) if plain_gold(option) == text]
    lead = _led(text, given)
    if lead != "":
        return lead
    if equal:
        return _letter(equal[0]) if len(equal) == 1 else None
    count = len(given) or 26
    if any(
        _in_range(pair[1], count) and _in_range(pair[2], count) and pair[1] != pair[2]
        for pair in _LETTER_LIST.finditer(text)
    ):
        return None
    return _in_sentence(_REFUSED.sub(" ", text).strip(), given)


def _in_range(letter: str, count: int) -> bool:
    return 0 <= ord(letter) - ord("a") < count


def _led(text: str, options: Options) -> str | None:
    """The letter that leads a text ("b. cat"); None if what follows contradicts it; "" if none."""
    count = len(options) or 26
    spaced = _LEAD_WORD.fullmatch(text)
    if spaced and _in_range(spaced[1], len(options)):
        own = _option_tokens(options)[ord(spaced[1]) - ord("a")]
        if own and tokens(spaced[2]) == own:
            return spaced[1].upper()
    match = _LEAD.match(text)
    if not match:
        return ""
    letter = match[1] or match[2]
    if not _in_range(letter, count):
        return ""
    rest = text[match.end() :]
    words = tokens(rest)
    if letter in "ai" and match[2] and re.match(r"[a-z]\.[a-z]", text):
        return ""
    if options and words == _option_tokens(options)[ord(letter) - ord("a")]:
        return letter.upper()
    rest = _REFUSED.sub(" ", rest)
    others = {found[1] or found[2] for found in _MARKED.finditer(rest)}
    others |= {found[1] for found in _CUE.finditer(rest)}
    if re.match(r"(?:or|and|/|&)?\s*[(\[]?[a-z][)\]]?$", rest) and rest.strip("() "):
        others.add(rest.strip("()[] ")[-1])
    if re.match(r"(?:or|and|/)\b", rest) or {o for o in others if _in_range(o, count)} - {letter}:
        return None
    named, _ = _named(rest, options)
    alone = {at for at in named if _option_tokens(options)[at] == words}
    if alone or re.search(r"\bor\b", rest):
        return None if alone != {ord(letter) - ord("a")} else letter.upper()
    return letter.upper()


def _in_sentence(text: str, options: Options) -> str | None:
    """The option that a plain text without refusals names somewhere."""
    count = len(options) or 26
    for cue in (_CUE, _CORRECT):
        letters = [next(filter(None, match.groups())) for match in cue.finditer(text)]
        letters = [letter for letter in letters if _in_range(letter, count)]
        if letters and (cue is _CUE or len(set(letters)) == 1):
            return letters[-1].upper()
    named, rest = _named(text, options)
    words = rest.split()
    marked = {found[1] or found[2] for found in _MARKED.finditer(text)}
    letters_in = {letter for letter in marked if letter in words or letter == "a"}
    letters_in |= {word for word in words if len(word) == 1 and word in _NEVER_WORDS}
    for edge in (_FIRST_WORD.match(text), _LAST_WORD.search(text)):
        if edge:
            letters_in.add(edge[1])
    found = {ord(letter) - ord("a") for letter in letters_in if _in_range(letter, count)}
    first = _FIRST_WORD.match(text)
    if first and found == {ord(first[1]) - ord("a")}:
        return first[1].upper()
    found |= named
    return _letter(found.pop()) if len(found) == 1 else None


def options_of(sample: Sample) -> Options:
    """A sample's option texts: its choices, else those that stand in its question."""
    return sample.choices or inline_options(sample.question)


def _score(sample: Sample, letter: str | None) -> Score:
    value = float(letter is not None and letter == sample.answers[0].strip().upper())
    return Score(value, letter, {"accuracy": value})


def strict(sample: Sample, response: str) -> Score:
    """1 if the response is the letter alone, in either case; "(B)", "B)" and "B." are the letter."""
    match = _BARE.fullmatch(trim(fold(response)))
    return _score(sample, match[1].upper() if match and response.isascii() else None)


def lenient(sample: Sample, response: str) -> Score:
    """1 if the option that the response names, by letter or text, is the gold one."""
    return _score(sample, read(response, options_of(sample)))
