"""Contractions that the VQA answer normaliser puts back: "dont" -> "don't".

The official VQA evaluation lists every misspelling beside its repair. The list follows a rule, so
only the repaired words are kept here: each misspelling is the word with one of its apostrophes
left out. The few lines of the official list that break the rule are in `_IRREGULAR`, because
scores are only comparable when the normaliser does what the official one does, mistakes included.

Source: the `contractions` table of https://github.com/GT-Vision-Lab/VQA (vqaEval.py).
"""

from __future__ import annotations

from collections.abc import Mapping

_ONE_APOSTROPHE = """
ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd
how'll how's isn't it'd it'll ma'am mightn't might've mustn't must've needn't not've o'clock
oughtn't shan't should've shouldn't somebody'll somebody's someone'd someone'll someone's
something'd something'll that's there'd there're there's they'd they'll they're they've wasn't
we've weren't what'll what're what's what've when's where'd where's where've who'd who'll who's
who've why'll why're why's won't would've wouldn't y'all you'd you'll you're you've
"""

_TWO_APOSTROPHES = """
couldn't've hadn't've he'd've it'd've mightn't've she'd've shouldn't've somebody'd've someone'd've
something'd've there'd've they'd've who'd've wouldn't've you'd've y'all'll
"""

_IRREGULAR = {
    "ow's'at": "'ow's'at",
    "'ows'at": "'ow's'at",
    "'ow'sat": "'ow's'at",
    # The official list takes the apostrophe out here, and knows no "somebodyd".
    "somebody'd": "somebodyd",
    "twas": "'twas",
    "wed've": "we'd've",
    "we'dve": "we'd've",
    "yall'd've": "y'all'd've",
    "y'alld've": "y'all'd've",
    "y'all'dve": "y'all'd've",
}


def _misspellings(word: str) -> list[str]:
    """`word` with each of its apostrophes left out in turn.

    >>> _misspellings("he'd've")
    ["hed've", "he'dve"]
    """
    return [word[:at] + word[at + 1 :] for at, mark in enumerate(word) if mark == "'"]


CONTRACTIONS: Mapping[str, str] = {
    **{wrong: word for word in _ONE_APOSTROPHE.split() for wrong in _misspellings(word)},
    **{wrong: word for word in _TWO_APOSTROPHES.split() for wrong in _misspellings(word)},
    **_IRREGULAR,
}
"""Misspelt lower-case word -> the word with its apostrophes."""
