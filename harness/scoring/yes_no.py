"""Yes and no: what a response to a question of two answers says.

An explicit "yes" or "no" that leads decides. Else the clauses of the response are read, each as an
affirmation ("there is a cat") or a denial ("no dog", "I do not see a dog"). Where they disagree,
only the clauses about what the question asks for count; without that the response is undecided.
An affirmation with a negation in it ("there is a cat but no dog") is never a "yes".
"""

from __future__ import annotations

import re
from functools import lru_cache

from harness.scoring import number
from harness.scoring.plain import fold, has_second_thought, plain, plain_gold, readings, trim
from harness.types import Sample, Score

_WORDS = {
    **dict.fromkeys(("yes", "yeah", "yep", "yup", "true", "correct", "y"), "yes"),
    **dict.fromkeys(("no", "nope", "nah", "false", "incorrect", "n"), "no"),
}
_PHRASES = {
    **dict.fromkeys(("absolutely", "definitely", "certainly", "i think so"), "yes"),
    **dict.fromkeys(("not really", "i don't think so", "i do not think so", "not at all"), "no"),
}
_SURELY = re.compile(
    r"(?:absolutely|definitely|certainly|surely|clearly|obviously|of course|probably|most likely"
    r"|i (?:think|believe|guess)),? (?P<word>yes|no|not)(?: at all)?"
)
_LABEL = re.compile(r"no\.?\s?#?\d")  # "No. 7" is a name
_YES = re.compile(r"(?:yes|yeah|yep|yup)(?![\w'-])")
# "no", "no, ..." and "no it isn't"; "no cat" is left to `_DENIED`.
_NO = re.compile(
    r"(?:nope|nah|no(?=\s*(?:$|[,.;:!\n(]|[-–—]\s|(?:it|there|this|that|he|she|they|the|i|we|you)\b)))"
    r"(?![\w'-])"
)
_OR = re.compile(r"\w+,?\s*(?:or\b|/)")
_DOUBT = re.compile(r"\b(?:but|maybe|perhaps|possibly|might|could|or)\b")
_YES_WORD = re.compile(r"\byes\b")
_NO_WORD = re.compile(r"\bno\b(?! doubt)")
_BOTH_NEAR = re.compile(
    r"\byes\b.{0,12}\bno\b(?! doubt)|\bno\b.{0,12}\byes\b",
    re.DOTALL,
)
_UNSURE = re.compile(
    r"\b(?:not (?:sure|certain|clear|possible to)|unsure|unclear|uncertain|maybe|perhaps|possibly"
    r"|might|may (?:also )?(?:be|have)|could (?:also )?be(?! seen)"
    r"|cannot|can't|don't know|do not know|no idea|no way to|hard to|difficult to|impossible to"
    r"|it depends|insufficient|not enough)\b"
)
_EITHER = re.compile(r"\b(?:either|or)\b")
_SEEN_NONE = re.compile(r"\b(?:cannot|can't) (?:see|find|spot|notice|detect) (?:an?|any|one)\b")
_BE = r"(?:is|are|was|were)"
_NOUN = r"\S+(?: \S+){0,2}"
_FILLER = (
    r"(?:idea|doubt|question|way|problem|reason|denying|comment|answer|clue|opinion|information"
    r"|guess|response|preference|\S*\d)\b"
)
_TELLS = (
    r"(?:contains?|shows?|has|have|depicts?|includes?|features?|displays?|contained|showed|had)"
)
_DENIED = re.compile(
    rf"there {_BE} (?:(?:no|none|neither|nothing|zero|0)\b(?! {_FILLER})"
    r"|not (?!only\b|just\b|many\b|much\b|enough\b|all\b|always\b|alone\b)\S)"
    r"|(?:there|it|this|that|he|she|they|the \S+(?: \S+)?) "
    rf"(?:(?:{_BE}|do|does|did|has|have|can|could)(?:n't| not)|(?:has|have) no)\b"
    r"(?! (?:only|just|alone|always|necessarily|enough|many|much|all|clear|clearly|load)\b)"
    rf"|(?:an?|any|one|the) {_NOUN} {_BE}(?:n't| not) (?:present|visible|seen|shown|there|in|here"
    r"|depicted|found|included|pictured|featured|apparent|evident|part)\b"
    rf"|(?:an?|any|one|the) {_NOUN} (?:cannot|can't|can not) be (?:seen|found)\b"
    rf"|(?:the|this|that|it)(?: \S+){{0,2}} {_TELLS} (?:no|neither|nothing|zero|0)\b(?! {_FILLER})"
    r"|i (?:(?:do|did|can|could)(?:n't| not)|cannot|can't) (?:see|find|spot|notice|detect)"
    r" (?:an?|any|one)\b"
    rf"|i (?:can |could )?see no\b(?! {_FILLER})"
    r"|i (?:do not|don't) (?:think|believe) (?:that )?(?:there|it|this|that|he|she|they|the)\b"
    rf"|(?:and |with )?no (?!{_FILLER})(?!one (?:knows|can|could|is)\b)"
    rf"{_NOUN}(?:\Z| (?:{_BE}|can be)\b)"
)
_AFFIRMED = re.compile(rf"there {_BE} (?!no\b|not\b|none\b|n't)|there's (?!no\b|not\b|none\b)")
# What else says that a thing is there, once it is known which.
_FOUND = re.compile(
    rf"i (?:do |can )?see (?:an?|one|some|the|two|three|\d+)\b|there (?:appears?|seems?) to be\b"
    rf"|(?:the|this|that)(?: \S+){{1,2}} {_TELLS} (?:an?|one|some|the|two|three|\d+)\b"
    rf"|(?:an?|one|the|some) {_NOUN} (?:{_BE}|can be) (?:present|visible|seen|shown|there)\b"
)
# Words that take something back, or keep to it: with one of them nothing is simply affirmed.
_NEGATION = re.compile(
    r"\b(?:no|not|none|neither|nor|never|nothing|nobody|nowhere|zero|without|lacks?|lacking"
    r"|absent|absence|missing|only|just|merely|solely|but|except|instead|rather|other than"
    r"|unlike|hardly|barely|false|untrue)\b|n't\b|\b(?:cannot|0)\b"
)
_TAKEN_BACK = re.compile(
    r"\b(?:only|just|merely|solely|instead|rather|no|not|without|never)\b|n't\b"
)
_SHORT_IS = re.compile(r"(there|it|that|this|he|she)'s\b")
_CLAUSE_END = re.compile(
    r"[.,;:!?\n]+\s*(?:(?:but|and|so|while|whereas|although|though|however|yet)\b,?\s*)?"
    r"|\s+(?:but|while|whereas|although|though|however|yet)\b,?\s*|\s+and (?=(?:there|no|it|i)\b)"
)
_BARE_LIST = re.compile(r"(?!.*\b(?:there|it|yes|is|are|was|were|i|not)\b)(?:\S+ ){0,4}\S+")
_ASKED = re.compile(
    r"\b(?:is|are|was|were) there (?:a total of|an?|any|the|some)?\s*(?P<noun>[^\n?.,]+?)"
    r"(?: (?:in|on|at|near|visible|present|shown|to|of|with|anywhere|here)\b[^\n?]*)?\?"
)
_ONE = re.compile(r"there (?:is|are|was|were|'s) (?:indeed )?(?:one|some|several|many|\d+)?\s*\Z")
# People are the commonest thing asked for, and hardly ever called persons.
_PEOPLE_NAMES = (
    "person people man men woman women boy boys girl girls child children kid kids baby guy lady"
    " human humans adult adults someone somebody pedestrian pedestrians player players"
)
_PEOPLE = frozenset(_PEOPLE_NAMES.split())
_MOST_READ = 4_000  # characters: an answer to yes or no is said by then


def read(response: str, question: str = "") -> str | None:
    """The word that a response says, "yes" or "no"; None where it says neither or both.

    >>> read("Yes, there is a cat."), read("There is no cat in the image."), read("yes or no")
    ('yes', 'no', None)
    >>> read("noon"), read("I'm not sure"), read("3")
    (None, None, None)
    >>> both = "There is a cat but no dog."
    >>> read(both), read(both, "Is there a dog?"), read(both, "Is there a cat?")
    (None, 'no', 'yes')
    """
    text = plain(response)[:_MOST_READ]
    if not text:
        return None
    if text in _WORDS or text in _PHRASES:
        return _WORDS.get(text) or _PHRASES[text]
    surely = _SURELY.fullmatch(text)
    if surely:
        return "yes" if surely["word"] == "yes" else "no"
    if _says_both(text) or has_second_thought(text):
        return None
    for reading in readings(text):
        if _LABEL.match(reading) or _OR.match(reading):
            return None
        if _YES.match(reading):
            return "yes"
        if _NO.match(reading):
            return "no"
        if len(reading) > 1 and reading in _WORDS:
            return _WORDS[reading]
        if reading == "not" and text != "not":
            return "no"
    return _stated(text, question)


def _says_both(text: str) -> bool:
    """True where yes and no stand close together, or in one sentence with a doubt between."""
    if _BOTH_NEAR.search(text):
        return True
    for sentence in re.split(r"[.\n]", text):
        yes = [match.start() for match in _YES_WORD.finditer(sentence)]
        no = [match.start() for match in _NO_WORD.finditer(sentence)]
        if yes and no:
            doubts = [match.start() for match in _DOUBT.finditer(sentence)]
            spans = ((yes[0], no[-1]), (no[0], yes[-1]))
            if any(first < doubt < last for first, last in spans for doubt in doubts):
                return True
    return False


def _stated(text: str, question: str) -> str | None:
    """What the clauses of a plain text without an explicit yes or no say, where they agree."""
    if _UNSURE.search(_SEEN_NONE.sub("", text)):
        return None
    asked = _asked(question)
    clauses = [_SHORT_IS.sub(r"\1 is", clause) for clause in _CLAUSE_END.split(text) if clause]
    said = [(clause, _polarity(clause, asked)) for clause in clauses]
    if said and said[0][1] == "no":
        # "no cat, dog or bird": the list goes on, and its "or" is no doubt.
        said[1:] = [(clause, "" if _is_list(clause) else word) for clause, word in said[1:]]
    mentioning = [clause for clause in clauses if _mentions(clause, asked)]
    about = [word for clause, word in said if clause in mentioning]
    told = {word for _, word in said if word}
    if about and len(told) > 1:
        # Of several things the one that was asked for counts; a bare list goes on with its verb.
        told = set(about)
    elif told == {"no"} and not any(about) and not all(_is_list(c) for c in mentioning):
        return None  # "It is not a cat, it is a dog."
    elif "mixed" not in told and not about and asked and told == {"yes"}:
        # Something else is there: no answer, unless it stands for what was asked ("there is one").
        return "yes" if any(_ONE.match(clause) for clause, _ in said) else None
    if len(told) != 1:
        return None
    word = told.pop()
    if word == "yes" and not _counts_agree(text, question):
        return None
    return word if word in ("yes", "no") else None


def _is_list(clause: str) -> bool:
    return _BARE_LIST.fullmatch(clause) is not None and not _NEGATION.search(clause)


def _polarity(clause: str, asked: frozenset[str]) -> str:
    """ "yes", "no", "mixed" (a negation that denies nothing as a whole), or "" for neither."""
    denied = _DENIED.match(clause)
    if denied:
        # A second negation takes the first one back, or brings up something else.
        again = _TAKEN_BACK.search(clause, denied.end())
        return "mixed" if again else "no"
    if _EITHER.search(clause) or _NEGATION.search(clause):
        return "mixed"
    return "yes" if _AFFIRMED.match(clause) or (asked and _FOUND.match(clause)) else ""


@lru_cache(maxsize=16384)
def _asked(question: str) -> frozenset[str]:
    """Words of which one names what "Is there a ...?" asks for; none for other questions."""
    match = _ASKED.search(plain(question[:_MOST_READ]) + "?")
    if not match:
        return frozenset()
    head = match["noun"].split()[-1]
    if head in _PEOPLE:
        return _PEOPLE
    stem = _stem(head)
    return frozenset((head, stem, f"{stem}s", f"{stem}es", f"{stem[:-1]}ies"))


def _stem(noun: str) -> str:
    """A noun without the commonest marks of the plural; good enough to find it again.

    >>> [_stem(noun) for noun in ("dogs", "glass", "buses", "berries")]
    ['dog', 'glass', 'bus', 'berry']
    """
    if noun.endswith("ies") and len(noun) > 4:
        return f"{noun[:-3]}y"
    if noun.endswith(("ses", "xes", "ches", "shes")):
        return noun[:-2]
    return noun[:-1] if noun.endswith("s") and not noun.endswith("ss") else noun


def _mentions(clause: str, asked: frozenset[str]) -> bool:
    return not asked.isdisjoint(re.findall(r"[^\W_]+", clause))


def _counts_agree(text: str, question: str) -> bool:
    """False for "there are three" where the question asks for two."""
    match = _ASKED.search(plain(question[:_MOST_READ]) + "?")
    asked = number.read(match["noun"]) if match else None
    given = number.read(text)
    return asked is None or given is None or asked == given


def _right(sample: Sample, parsed: str | None) -> float:
    return float(parsed is not None and any(parsed == plain_gold(g) for g in sample.answers))


def word_of_gold(gold: str) -> str | None:
    """The word that a gold cell means, however its file writes truth; None for anything else.

    >>> word_of_gold("True"), word_of_gold("n"), word_of_gold("red")
    ('yes', 'no', None)
    """
    return _WORDS.get(plain_gold(gold))


def strict(sample: Sample, response: str) -> Score:
    """1 if the response is the word itself, but for case and a final period."""
    word = trim(fold(response))
    parsed = word if word in ("yes", "no") else None
    value = _right(sample, parsed)
    return Score(value, parsed, {"accuracy": value})


def lenient(sample: Sample, response: str) -> Score:
    """1 if the response says yes or no, as the gold does."""
    parsed = read(response, sample.question)
    value = _right(sample, parsed)
    return Score(value, parsed, {"accuracy": value})
