"""Foreign text: words that came from a model, a data set or a file name, made fit to be shown.

Escaping for HTML is the page's business (every way out escapes by itself). Here is what escaping
does not mend: characters that are invisible or that rearrange what stands around them, and length.
"""

from __future__ import annotations

import unicodedata

NAME_LIMIT = 80
_CUT = " … [{n} more characters]"
# Kept as they are: a line break means something in an answer.
_PLAIN = frozenset("\n\t")


def visible(text: str, limit: int) -> str:
    """`text` with every control, format and lone surrogate character drawn, cut after `limit`.

    Control characters become their pictures, right-to-left overrides and other format characters
    their code points, so that nothing is hidden and nothing is turned round.

    >>> visible("3\\x1b[31m", 80), visible("a\\u202eb", 80), visible("abcdef", 4)
    ('3␛[31m', 'a⟨U+202E⟩b', 'abcd … [2 more characters]')
    """
    kept = text[:limit]
    if not kept.isprintable():
        kept = "".join(character if character.isprintable() else _drawn(character)
                       for character in kept)  # fmt: skip
    return kept if len(text) <= limit else kept + _CUT.format(n=f"{len(text) - limit:,}")


def name(text: str) -> str:
    """A name (strategy, benchmark, stage) on one line."""
    return " ".join(visible(text, NAME_LIMIT).split())


def _drawn(character: str) -> str:
    if character in _PLAIN:
        return character
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "␡"
    if unicodedata.category(character) in ("Zs", "Zl", "Zp"):
        return " "
    return f"⟨U+{code:04X}⟩"
