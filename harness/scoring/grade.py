"""Grading: stored answers of one task to scores, without a model.

Every answer of a sample is graded once, however many checkpoints gave it.
"""

from __future__ import annotations

import string
from collections.abc import Sequence

from harness.types import Sample, Score, Scorer


class Grader:
    """One scorer over one task's samples, remembering the answers it has seen."""

    def __init__(self, scorer: Scorer, samples: Sequence[Sample]):
        self._scorer = scorer
        self._samples = {sample.id: sample for sample in samples}
        self._seen: dict[tuple[str, str], Score] = {}

    def grade(self, sample_id: str, response: str) -> Score:
        """The score of an answer to a sample of the task."""
        key = (sample_id, response)
        if key not in self._seen:
            self._seen[key] = self._scorer(self._samples[sample_id], response)
        return self._seen[key]


def chosen(
    prediction_text: str, choice_scores: Sequence[float] | None, words: Sequence[str] = ()
) -> str:
    """The answer to grade: the text, or the letter of the likeliest choice.

    `words`: the choices of a question without letters, of which the likeliest is the answer.

    >>> chosen("", [-3.0, -1.5]), chosen("", [-3.0, -1.5], [" red", " blue"])
    ('B', ' blue')
    """
    if not choice_scores:
        return prediction_text
    best = max(range(len(choice_scores)), key=choice_scores.__getitem__)
    if words:
        return words[best]
    # Only lm-eval's tasks have more options than letters; their grades do not come from here.
    return string.ascii_uppercase[best] if best < len(string.ascii_uppercase) else f"{best + 1}"
