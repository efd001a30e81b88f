"""Number words: the English names of 0 to 20, in order."""

from __future__ import annotations

_NAMES = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
sixteen seventeen eighteen nineteen twenty
"""

TO_TWENTY: tuple[str, ...] = tuple(_NAMES.split())
"""`TO_TWENTY[n]` is the name of n."""
