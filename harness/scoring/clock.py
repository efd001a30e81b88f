"""Clock times: hour and minute that an answer states, on the face of a clock of twelve hours.

A clock face does not tell 3:45 from 15:45, so hours are compared modulo twelve; only a gold hour
above twelve contradicts an explicit "am". The minute may be one off, as in the reference metric,
and carries: 3:59 and 4:00 are one minute apart.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from harness.number_words import TO_TWENTY
from harness.scoring.plain import fold, has_second_thought, plain, trim
from harness.types import Sample, Score

_TENS = ("twenty", "thirty", "forty", "fifty")
_HOURS = {word: value for value, word in enumerate(TO_TWENTY[1:13], start=1)}
_MINUTES = {
    **{word: value for value, word in enumerate(TO_TWENTY[:20])},
    **{word: 10 * value for value, word in enumerate(_TENS, start=2)},
    "quarter": 15,
    "half": 30,
}
_HOUR_WORD = "|".join(sorted(_HOURS, key=len, reverse=True))
_ONE_WORD = "|".join(TO_TWENTY[1:10])
_TEEN_WORD = "|".join(sorted(TO_TWENTY[10:20], key=len, reverse=True))
_TENS_WORD = rf"(?:{'|'.join(_TENS)})(?:[\s-]+(?:{_ONE_WORD}))?"
_HALF_DAY = r"(?:\s*(?P<half>[ap])\.?\s?m\b)?"
_SPOKEN_HOUR = rf"(?P<hour>\d{{1,2}}|{_HOUR_WORD})(?![\w:])"
_FORMS = tuple(
    re.compile(form)
    for form in (
        r"(?<![\d:.])(?P<hour>\d{1,2})\s?:\s?(?P<minute>\d{1,2})(?::\d{2})?(?![\d:])" + _HALF_DAY,
        r"(?<![\d:.])(?P<hour>\d{1,2})(?:\.|\s?h\s?)(?P<minute>\d{2})(?![\d.])" + _HALF_DAY,
        rf"\b(?:(?:a )?(?P<minute>\d{{1,2}}|quarter|half|{_TENS_WORD}|{_TEEN_WORD}|{_ONE_WORD})"
        rf"(?:\s+minutes?)?)\s+(?P<way>past|after|to|till|until|before)\s+{_SPOKEN_HOUR}"
        r"(?:\s+o'?\s?clock)?" + _HALF_DAY,
        r"\bhours?\s*[:=]?\s*(?P<hour>\d{1,2})\b\D{1,12}\bminutes?\s*[:=]?\s*(?P<minute>\d{1,2})\b",
        rf"\b{_SPOKEN_HOUR}\s+hours?,?(?:\s+and)?\s+(?P<minute>\d{{1,2}})\s+minutes?\b",
        rf"\b{_SPOKEN_HOUR}\s+(?:(?P<minute>{_TENS_WORD}|{_TEEN_WORD}|(?:oh?|zero)[\s-]+"
        rf"(?:{_ONE_WORD}))(?!\w))" + _HALF_DAY,
        rf"\b{_SPOKEN_HOUR}\s*o'?\s?clock" + _HALF_DAY,
        r"\b(?P<hour>\d{1,2})\s*(?P<half>[ap])\.?\s?m\b",
        r"\b(?P<hour>noon|midday|midnight)\b",
    )
)
_WHOLE = re.compile(r"(?P<hour>\d{1,2}?)[\s-]?(?P<minute>\d{2})" + _HALF_DAY)
_REFUSED = re.compile(r"\b(?:not|isn't)\b[^,;\n]*?(?=\bbut\b|[,;\n]|$)")
_HEDGE = re.compile(r"\bor\b(?! so\b)|\beither\b|\bbetween\b")
_STRICT = re.compile(r"(\d{1,2}):(\d{2})")
_FACE = 12 * 60
_NONE = (False, False, False)
_TOLERANCE = 1  # minutes, as in LMM_CL (which follows "It's About Time", arXiv:2111.09162)


class Time(NamedTuple):
    """An hour as written (0 to 24), a minute (0 to 59), and "a" or "p" where half a day is told."""

    hour: int
    minute: int
    half: str = ""


def _minute(text: str) -> int:
    if text.isdigit():
        return int(text)
    return sum(_MINUTES.get(word, 0) for word in re.split(r"[\s-]+", text))


def _time_of(match: re.Match[str]) -> Time | None:
    parts = match.groupdict()
    spoken = parts["hour"]
    if spoken.isdigit():
        hour = int(spoken)
    else:
        hour = 0 if spoken == "midnight" else _HOURS.get(spoken, 12)
    minute = _minute(parts.get("minute") or "0")
    if hour > 24 or minute > 59:
        return None
    if parts.get("way") in ("to", "till", "until", "before") and minute:
        hour, minute = (hour - 1) % 24, 60 - minute
    return Time(hour, minute, parts.get("half") or "")


def read(response: str) -> Time | None:
    """The one time that a response states; None for none, or for several.

    >>> read("quarter past three")
    Time(hour=3, minute=15, half='')
    >>> read("It is 3:45 p.m.")[:2], read("twenty-five to 4")[:2], read("three forty-five")[:2]
    ((3, 45), (3, 35), (3, 45))
    >>> read("3:45 or 9:15"), read("45:15"), read("3")
    (None, None, None)
    """
    text = _REFUSED.sub(" ", plain(response)).strip()
    first, below, _ = text.partition("\n")
    if below and is_time(trim(first)):
        text = trim(first)
    if _HEDGE.search(text) or has_second_thought(text):
        return None
    whole = _WHOLE.fullmatch(text)
    if whole:
        return _time_of(whole)
    times = []
    for form in _FORMS:
        for match in form.finditer(text):
            time = _time_of(match)
            if time is None:
                return None
            times.append(time)
        # What one form has read is not read again by the next.
        text = form.sub(" | ", text)
    faces = {_face_minutes(time) for time in times}
    return times[0] if len(faces) == 1 else None


def is_time(text: str) -> bool:
    """True where a plain text is a time and nothing else.

    >>> is_time("3:45 pm"), is_time("345"), is_time("at 3:45")
    (True, False, False)
    """
    return any(form.fullmatch(text) for form in _FORMS) and read(text) is not None


def in_digits(text: str) -> str | None:
    """A time as "HH:MM", as strict wants it; None for a text that states none.

    >>> in_digits("3:45"), in_digits("quarter to 4 pm"), in_digits("12:05 am"), in_digits("red")
    ('3:45', '15:45', '0:05', None)
    """
    time = read(text)
    if time is None:
        return None
    if _STRICT.fullmatch(text.strip()) and not time.half:
        return text.strip()
    hour = time.hour
    if time.half == "p" and hour < 12:
        hour += 12
    elif time.half == "a" and hour == 12:
        hour = 0
    return f"{hour}:{time.minute:02d}"


def _face_minutes(time: Time) -> int:
    return (time.hour * 60 + time.minute) % _FACE


@lru_cache(maxsize=65536)
def _gold_time(gold: str) -> Time | None:
    return read(gold)


def _apart(first: int, second: int, cycle: int) -> int:
    return min((first - second) % cycle, (second - first) % cycle)


def _contradicts(given: Time, gold: Time) -> bool:
    """True for "3:45 am" against 15:45: the only case where a face is not enough."""
    return gold.hour > 12 and given.half == "a"


def _right(gold: Time | None, given: Time | None) -> tuple[bool, bool, bool]:
    """Whether both, the hour and the minute agree."""
    if not given or not gold:
        return _NONE
    both = _apart(_face_minutes(given), _face_minutes(gold), _FACE) <= _TOLERANCE
    both = both and not _contradicts(given, gold)
    hour = both or (given.hour % 12 == gold.hour % 12 and not _contradicts(given, gold))
    return both, hour, _apart(given.minute, gold.minute, 60) <= _TOLERANCE


def _score(sample: Sample, given: Time | None) -> Score:
    """The best score by one of the accepted times: both right, else the hour, else the minute."""
    both, hour, minute = max((_right(_gold_time(g), given) for g in sample.answers), default=_NONE)
    metrics = {"hour": float(hour), "minute": float(minute), "both": float(both)}
    return Score(float(both), [given.hour, given.minute] if given else None, metrics)


def strict(sample: Sample, response: str) -> Score:
    """1 if the response is HH:MM and nothing else but a final period, at most a minute off."""
    match = _STRICT.fullmatch(trim(fold(response))) if response.isascii() else None
    time = Time(int(match[1]), int(match[2])) if match else None
    if time and (time.hour > 24 or time.minute > 59):
        time = None
    return _score(sample, time)


def lenient(sample: Sample, response: str) -> Score:
    """1 if the only time that the response states, however said, is at most a minute off."""
    return _score(sample, read(response))
