"""Errors a user sees: where, what was got, what was expected, and the cure. Never a traceback.

Two kinds by consequence. A `UserError` stops a command before work starts (exit code in `code`).
A `SampleError` concerns one sample: the run goes on and the sample gets the status `failed`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

# Exit codes of every command; `gate` alone uses 1 and 3 for its verdicts.
EXIT_OK = 0
EXIT_REGRESSION = 1
EXIT_USAGE = 2
EXIT_INCONCLUSIVE = 3
EXIT_INCOMPATIBLE = 4
EXIT_INTERNAL = 5
# `score`: something could not be scored, the rest is done. / The shells' code for Ctrl-C.
EXIT_FAILED = 6
EXIT_INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong, at one place. Printed as `<place>: <text>`."""

    place: str
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.text}" if self.place else self.text


class UserError(Exception):
    """What a user can mend. `problems` holds everything found, not only the first."""

    code = EXIT_USAGE

    def __init__(self, where: str, problems: Sequence[Problem] | str):
        self.where = where
        self.problems = [Problem("", problems)] if isinstance(problems, str) else list(problems)
        super().__init__(str(self))

    def __reduce__(self) -> tuple[type[UserError], tuple[str, list[Problem]]]:
        return type(self), (self.where, self.problems)  # for errors of worker processes

    def __str__(self) -> str:
        if len(self.problems) == 1:
            return f"{self.where}: {self.problems[0]}" if self.where else str(self.problems[0])
        lines = "\n".join(f"  {problem}" for problem in self.problems)
        return f"{self.where}: {len(self.problems)} problems\n{lines}"


class ManifestError(UserError):
    """A manifest that cannot be used."""


class CheckpointError(UserError):
    """A checkpoint that cannot be loaded: missing, torn, of another architecture, or unsafe."""


class EngineError(UserError):
    """An engine that died or cannot go on: no request is at fault, what it owed is still owed."""

    code = EXIT_FAILED


class DataError(UserError):
    """A data source that does not have what its task needs."""


class ResultsError(UserError):
    """Results that cannot be read or written."""


class IncompatibleError(UserError):
    """Numbers made in different ways, asked to be compared."""

    code = EXIT_INCOMPATIBLE


class SampleError(Exception):
    """One sample cannot be used; the message is its reason (one line)."""


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """`"; did you mean 'chartqa'?"` for a near miss, else `""`.

    >>> did_you_mean("chart_qa", ["chartqa", "ai2d"])
    "; did you mean 'chartqa'?"
    """
    near = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def first_line(error: BaseException, most: int = 300) -> str:
    """The first line of what an exception says, `most` characters of it; else its type's name.

    >>> first_line(ValueError("no such thing\\nat line 3")), first_line(KeyError())
    ('no such thing', 'KeyError')
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0][:most]
