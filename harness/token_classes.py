"""Token classes: which tokens of a vocabulary could begin a number, a letter, a yes or no, a time.

A class is a set of token ids, found by reading every token of a tokenizer as the text it stands
for. Marks of a space (`Ġ1` of byte-level, `▁1` of SentencePiece, `##1` of WordPiece) are read as
what they mean, so that one definition serves all tokenizers. The probability that a model puts on
a class where its answer begins is the probe of the drift diagnostics.

- `number`: ASCII digits with commas or decimals ("12", "3.5"), digits with an ordinal's ending
  ("1st"), and English number words ("one", "Twenty"). Full-width and other scripts' digits, and
  "first", are not in it: the reference study's scan looks at ASCII digits and number words.
- `letter`: the option letters A to J, capital, with or without marks: "A", "(B", "C.".
- `yes_no`: "yes" and "no" in any case.
- `time`: what only a clock time begins with: "10:30", "noon", "pm". A time whose first token is
  an hour ("10", ":", "30") counts as `number`.

The first token is all that is seen: where a SentencePiece tokenizer starts every answer with a
lone space mark, what follows that mark is not seen.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from harness.errors import CheckpointError, Problem, UserError
from harness.number_words import TO_TWENTY

TokenClasses = Mapping[str, tuple[int, ...]]
"""Class name -> its token ids, ascending."""

_MORE_WORDS = "thirty forty fifty sixty seventy eighty ninety hundred thousand million billion"
_NUMBER_WORDS = "|".join((*TO_TWENTY, *_MORE_WORDS.split()))
CLASSES: Mapping[str, re.Pattern[str]] = {
    "number": re.compile(
        rf"[0-9]+(?:[.,][0-9]+)*(?:st|nd|rd|th)?|\.[0-9]+|(?i:{_NUMBER_WORDS})", re.ASCII
    ),
    "letter": re.compile(r"[(\[]?[A-J][)\].:]?"),
    "yes_no": re.compile(r"(?i:yes|no)"),
    "time": re.compile(
        r"[0-9]{1,2}:[0-9]{2}(?::[0-9]{2})?|(?i:noon|midnight|[ap]\.m\.?|pm|o'clock)"
    ),
}
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")


def classify(text: str, classes: Mapping[str, re.Pattern[str]] = CLASSES) -> str | None:
    """The class of a token that stands for `text`; None = none of them.

    >>> [classify(text) for text in ("1", " 12", "1st", "One", "(B", "No", "10:30")]
    ['number', 'number', 'number', 'number', 'letter', 'yes_no', 'time']
    >>> classify("１"), classify("first"), classify("a")
    (None, None, None)
    """
    word = text.strip()
    return next((name for name, pattern in classes.items() if pattern.fullmatch(word)), None)


def user_classes(words: Mapping[str, Sequence[str]]) -> dict[str, re.Pattern[str]]:
    """The standard classes and a user's own, each a list of words (any case).

    Raises UserError for a name that is taken or not plain, or a class without words.
    """
    problems = [
        Problem(name, "got a name that is taken or not of a-z, 0-9 and _; choose another")
        for name in words
        if name in CLASSES or not _NAME.fullmatch(name)
    ]
    problems += [
        Problem(name, "got no words, expected a list such as red,green,blue")
        for name, listed in words.items()
        if not any(word.strip() for word in listed)
    ]
    if problems:
        raise UserError("token classes", problems)
    mine = {
        name: re.compile("|".join(re.escape(w.strip()) for w in listed if w.strip()), re.IGNORECASE)
        for name, listed in words.items()
    }
    return {**mine, **CLASSES}


def token_classes(
    tokenizer: Mapping[str, Any], classes: Mapping[str, re.Pattern[str]] = CLASSES
) -> dict[str, tuple[int, ...]]:
    """The token ids of each class in a parsed `tokenizer.json`; special tokens are in none."""
    found: dict[str, list[int]] = {name: [] for name in classes}
    for token, text in token_texts(tokenizer).items():
        name = classify(text, classes)
        if name is not None:
            found[name].append(token)
    return {name: tuple(sorted(ids)) for name, ids in found.items()}


def token_texts(tokenizer: Mapping[str, Any]) -> dict[int, str]:
    """What each token of a parsed `tokenizer.json` stands for, spaces written as spaces.

    Bytes that are no whole character become U+FFFD. Added tokens that are special are left out.
    """
    model = tokenizer["model"]
    vocabulary = model["vocab"]
    if isinstance(vocabulary, list):  # Unigram: [piece, score], its place is its id
        vocabulary = {piece: place for place, (piece, _) in enumerate(vocabulary)}
    added = tokenizer.get("added_tokens") or []
    kinds = _kinds(tokenizer.get("decoder")) | _kinds(tokenizer.get("pre_tokenizer"))
    read = _of_bytes if "ByteLevel" in kinds else _of_pieces
    texts = {token: read(piece) for piece, token in vocabulary.items()}
    texts.update({entry["id"]: entry["content"] for entry in added})
    for entry in added:
        if entry.get("special"):
            del texts[entry["id"]]
    return texts


def read_tokenizer(folder: Path) -> dict[str, Any]:
    """A checkpoint folder's `tokenizer.json`. Raises CheckpointError."""
    file = folder / "tokenizer.json"
    try:
        value: Any = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        cure = "save it with transformers: AutoTokenizer.from_pretrained(X).save_pretrained(X)"
        raise CheckpointError(str(folder), f"tokenizer.json is missing; {cure}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(str(file), f"cannot be read: {error}") from None
    found: dict[str, Any] = value if isinstance(value, dict) else {}
    model = found.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict | list):
        raise CheckpointError(str(file), "has no vocabulary under model.vocab")
    return found


def _kinds(part: Any) -> set[str]:
    """The `type`s in a decoder or pre-tokenizer and in the parts it is a sequence of."""
    if not isinstance(part, dict):
        return set()
    inner = [*(part.get("decoders") or ()), *(part.get("pretokenizers") or ())]
    return {str(part.get("type")), *(kind for entry in inner for kind in _kinds(entry))}


@lru_cache(maxsize=1)
def _byte_of() -> Mapping[str, int]:
    """The byte-level alphabet: printable bytes are themselves, the others shifted past 255."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {
        **{chr(byte): byte for byte in printable},
        **{chr(256 + place): byte for place, byte in enumerate(others)},
    }


def _of_bytes(piece: str) -> str:
    alphabet = _byte_of()
    if any(char not in alphabet for char in piece):
        return piece  # an added word: written as it is read
    return bytes(alphabet[char] for char in piece).decode("utf-8", "replace")


def _of_pieces(piece: str) -> str:
    byte = _BYTE.fullmatch(piece)
    if byte:
        return bytes([int(byte[1], 16)]).decode("utf-8", "replace")
    return piece.removeprefix("##").replace("▁", " ")
