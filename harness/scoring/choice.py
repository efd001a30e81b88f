"""Choices: the option that an answer names, by its letter or by its text.

`read` looks for the most explicit sign first: the bare letter, a letter that leads ("B. cat"),
the text of an option, a cue ("the answer is B"), a marked letter ("(B)"), at last a letter or an
option text inside a sentence. Two options at one level are a hedge and mean none. Capitals play
no part, so "a" and "i" count as letters only where they cannot be words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from harness.scoring import number
from harness.scoring.phrase import tokens
from harness.scoring.plain import fold, has_second_thought, plain, plain_gold, readings, trim
from harness.types import Sample, Score

Options = tuple[str, ...]

_OPEN, _CLOSE = r"[(\[{\"']{0,3}", r"[)\]}\"']{0,3}"
_BARE = re.compile(r"[(\[]?([a-z])[)\]]?[.:)]?")
_LEAD = re.compile(
    r"(?:[(\[]([a-z])[)\]][.:,]?"  # (b) cat
    r"|([a-z])(?:[)\]][.:,]?|[.:,](?=\s)|\s*[-–—=](?=\s)|\s*\n|\s+(?=\()))\s*"  # b. cat, b - cat
)
_LEAD_SPACE = re.compile(r"([a-z])[\s.:]+(.+)", re.DOTALL)
_LETTER_LIST = re.compile(
    rf"(?<![\w']){_OPEN}([a-z]){_CLOSE}\.?(?:\s*(?:,|/|&|\bor\b|\band\b)\s*)+"
    rf"(?:(?:option|choice|answer)\s+)?{_OPEN}([a-z]){_CLOSE}"
    r"(?![\w'])(?!\s+(?:think|believe|am|see|would)\b)"
)
_OR = re.compile(r"\s*,?\s*(?:or\b|/)")
_DOUBT = re.compile(
    r"\b(?:but|possibly|maybe|perhaps|might|could|may|alternatively|also|otherwise)\b"
)
_ALTERNATIVE = re.compile(r"\b(?:or|either)\b")
_REFUSED = re.compile(
    rf"{_OPEN}(?<![\w'])\w+{_CLOSE}\s+(?:is|are)\s+(?:wrong|incorrect|false|not\b)[^.;,:\n]*"
    r"|\b(?:not|isn't|cannot be|rather than|instead of|neither|nor|never|except)\b"
    r"[^.;:\n]*?(?=\bbut\b|\bso\b|[.;:\n]|$)"
)
# "a" before a word is an article unless the word goes on about the letter.
_NO_ARTICLE = r"(?![\w'])(?!\s+(?!because|since|as|and|or|is|which)[a-z])"
_CUE = re.compile(
    r"\b(?:answer|choice|letter|choose|pick|select|go with)\b[\"']?"
    r"(?:\s+(?:is|would be|should be|must be|option|choice|letter)\b)*\s*[:=]?\s*"
    rf"(?:(?:option|choice|letter)\s+)?{_OPEN}([a-z]){_CLOSE}{_NO_ARTICLE}"
)
_CORRECT = re.compile(
    rf"(?<![\w']){_OPEN}([a-z]){_CLOSE}\s+(?:is|would be)\s+(?:the\s+)?(?:correct|right|best)\b"
    rf"|\b(?:option|choice)\s+{_OPEN}([a-z]){_CLOSE}{_NO_ARTICLE}"
)
_MARKED = re.compile(r"[(\[]([a-z])[)\]]|(?<![\w'.])([a-z])[.):](?=\s|$)")
# No article stands before a mark or these words.
_LONE_A = re.compile(r"(?<![\w'])(a)(?=[,;)]|\.(?:\s|$)|\s+(?:but|because|since)\b)")
_EDGES = (
    re.compile(r"([a-z])(?=\s+(?:because|since|as|is)\b)"),  # at the start: "a because ..."
    re.compile(r".*(?:\bis|\bbe|'s|[:=])\s+([a-z])", re.DOTALL),  # at the end: "... is a"
    re.compile(r".*[\u3040-\u30ff\u4e00-\u9fff]\s?([a-z])(?![a-z0-9]).*", re.DOTALL),  # 正解はD
)
_INLINE = re.compile(r"(?:^|[\n,;]|\boptions?:|\bchoices:)\s*\(?([A-Z])[.:)]\s*", re.IGNORECASE)
# One word after an option makes another thing of it ("grass snake", "fly away"), but for these.
_COMPOUND = re.compile(r"(?:(?:an?|the) )?(?P<head>.+) (?P<next>[a-z]+)")
_SAME_THING = re.compile(
    r".*(?:ing|ed|ly)|stages?|seasons?|phases?|levels?|parts?|layers?|species|types?|kinds?|groups?"
    r"|family|organisms?|animals?|plants?|here|there|too|also|yes|though|only|alone|please|because"
    r"|is|are|was|were|has|have|does|will|would|one|ones|image|picture|photo|option|answer|choice"
    r"|indeed|instead|right|correct|best|first|now|again|sir|it|this|that|in|on|at|of|to|and|or"
)
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
    text = question.replace("<image>", "").strip()
    marks: list[re.Match[str]] = []
    for match in _INLINE.finditer(text):
        if match[1] == _letter(len(marks)):
            marks.append(match)
    if len(marks) < 2:
        return ()
    ends = [following.start() for following in marks[1:]] + [len(text)]
    pieces = [text[mark.end() : end] for mark, end in zip(marks, ends, strict=True)]
    return tuple(piece.strip().split("\n")[0].rstrip(" ,;") for piece in pieces)


@lru_cache(maxsize=65536)
def _words_of(options: Options) -> tuple[tuple[str, ...], ...]:
    return tuple(tokens(plain(option)) for option in options)


@lru_cache(maxsize=65536)
def _longest_first(options: Options) -> tuple[tuple[int, str], ...]:
    phrases = [(at, " ".join(words)) for at, words in enumerate(_words_of(options)) if words]
    return tuple(sorted(phrases, key=lambda item: -len(item[1])))


def _letter(index: int) -> str:
    return chr(ord("A") + index)


def _indices(letters: Iterable[str], options: Options) -> set[int]:
    """Letters (lower case) as option indices; those beyond the options are left out."""
    found = {ord(letter) - ord("a") for letter in letters}
    return {at for at in found if 0 <= at < (len(options) or 26)}


def _groups(form: re.Pattern[str], text: str) -> list[str]:
    return [next(filter(None, match.groups())) for match in form.finditer(text)]


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
    given = tuple(options)
    bare = _BARE.fullmatch(text)
    if bare:
        return bare[1].upper()
    words = tokens(text)
    # "B cat": the letter leads its own text. "A cat" may be that too, or an article.
    spaced = _LEAD_SPACE.fullmatch(text)
    if spaced and given:
        for at in _indices(spaced[1], given):
            if tokens(spaced[2]) == _words_of(given)[at] != ():
                return _letter(at)
    equal = [at for at, option in enumerate(given) if text and plain_gold(option) == text]
    kept = _REFUSED.sub(" ", text).strip()
    letters = (_indices(pair.groups(), given) for pair in _LETTER_LIST.finditer(kept))
    if not equal and any(len(pair) > 1 for pair in letters):
        return None
    lead = _LEAD.match(text)
    if not equal and lead and _indices(lead[1] or lead[2], given):
        return _led(lead[1] or lead[2], text[lead.end() :], given)
    equal = equal or [at for at, option in enumerate(_words_of(given)) if option == words != ()]
    if equal:
        return _letter(equal[0]) if len(equal) == 1 else None
    return _in_sentence(kept, given)


def _led(letter: str, rest: str, options: Options) -> str | None:
    """The letter before `rest`, unless the rest names another letter or is another option."""
    index = ord(letter) - ord("a")
    words = tokens(rest)
    if options and words == _words_of(options)[index]:
        return _letter(index)
    if words in _words_of(options) and words:
        return None
    rest = _REFUSED.sub(" ", rest).strip()
    others = _indices([*_groups(_MARKED, rest), *_groups(_CUE, rest)], options)
    bare = _BARE.fullmatch(rest)
    if bare:
        others |= _indices(bare[1], options)
    if others - {index} or _ALTERNATIVE.search(rest) or _doubted(rest, index, options):
        return None
    return _letter(index)


def _doubted(rest: str, index: int, options: Options) -> bool:
    """True where what follows an answer brings another one up: "B, but it might be C"."""
    doubt = _DOUBT.search(rest)
    if not doubt:
        return False
    named, words = _named(rest[doubt.end() :], options)
    letters = {word for word in words.split() if len(word) == 1 and word in _NEVER_WORDS}
    letters |= set(_groups(_LONE_A, f"{rest[doubt.end() :]}."))
    return bool((named | _indices(letters, options)) - {index})


def _in_sentence(text: str, options: Options) -> str | None:
    """The option that a plain text without refusals names somewhere."""
    cues = [cue for cue in _CUE.finditer(text) if _indices(cue[1], options)]
    if cues:
        letter, tail = cues[-1][1], text[cues[-1].end() :]
        doubtful = _OR.match(tail) or _doubted(tail, ord(letter) - ord("a"), options)
        return None if doubtful else letter.upper()
    stated = _indices(_groups(_CORRECT, text), options)
    if len(stated) == 1:
        return _letter(stated.pop())
    if has_second_thought(text):
        return None
    start = _EDGES[0].match(text)
    found = _indices(start[1], options) if start else set()
    named, rest = _named(text, options)
    named = {at for at in named if not _is_other_thing(text, options[at])}
    words = rest.split()
    letters = {word for word in words if len(word) == 1 and word in _NEVER_WORDS}
    letters |= set(_groups(_LONE_A, text))
    letters |= {letter for letter in _groups(_MARKED, text) if letter in words or letter == "a"}
    ends = {match[1] for edge in _EDGES[1:] if (match := edge.fullmatch(text))}
    found |= _indices(letters | ends, options)
    if (start or ends) and len(found) == 1:
        return _letter(found.pop())
    found |= named
    if not found:
        found = _of_value(text, options)
    return _letter(found.pop()) if len(found) == 1 else None


def _is_other_thing(text: str, option: str) -> bool:
    """True where an answer is an option and one more noun: "grass snake" is no grass."""
    for reading in readings(text):
        match = _COMPOUND.fullmatch(reading)
        if match and tokens(match["head"]) == tokens(plain_gold(option)) != ():
            return not _SAME_THING.fullmatch(match["next"])
    return False


def _of_value(text: str, options: Options) -> set[int]:
    """Options that are the one number of a text ("three" for the option "3")."""
    value = number.read(text) if options else None
    if value is None:
        return set()
    return {at for at, option in enumerate(options) if number.of_gold(option) == value}


def options_of(sample: Sample) -> Options:
    """A sample's option texts: its choices, else those that stand in its question."""
    return sample.choices or inline_options(sample.question)


def _score(sample: Sample, letter: str | None) -> Score:
    value = float(letter is not None and letter == sample.answers[0].strip().upper())
    return Score(value, letter, {"accuracy": value})


def strict(sample: Sample, response: str) -> Score:
    """1 if the response is the letter alone, in either case; "(B)" and "B." are the letter."""
    match = _BARE.fullmatch(trim(fold(response))) if response.isascii() else None
    return _score(sample, match[1].upper() if match else None)


def lenient(sample: Sample, response: str) -> Score:
    """1 if the option that the response names, by letter or text, is the gold one."""
    return _score(sample, read(response, options_of(sample)))
