"""The micro study's ten skills: rendered pictures and real digits, from `forgeteval demo`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from harness.rows import text, texts
from harness.scoring import choice, clock, number, phrase, yes_no
from harness.types import AnswerType, Decoding, Role, Sample, Scorer, ScorerName, Source, Task

COLUMNS = ("id", "image", "question", "answer", "choices", "group")
LETTERS = "AB"

PHRASE: Mapping[ScorerName, Scorer] = {"strict": phrase.strict, "lenient": phrase.lenient}
NUMBER: Mapping[ScorerName, Scorer] = {"strict": number.strict, "lenient": number.lenient}
YES_NO: Mapping[ScorerName, Scorer] = {"strict": yes_no.strict, "lenient": yes_no.lenient}
CHOICE: Mapping[ScorerName, Scorer] = {"strict": choice.strict, "lenient": choice.lenient}
TIME: Mapping[ScorerName, Scorer] = {"strict": clock.strict, "lenient": clock.lenient}


def prompt(sample: Sample) -> str:
    """The question, then the lettered options: the words the base was trained on."""
    options = (f"{k}. {text}" for k, text in zip(LETTERS, sample.choices, strict=False))
    return " ".join([sample.question, *options])


def reader(answer_type: AnswerType, chance: float) -> Callable[[Mapping[str, Any], int], Sample]:
    """(row, index) -> Sample, for one skill."""

    def sample(row: Mapping[str, Any], index: int) -> Sample:
        answer = text(row, "answer")
        yes_or_no = answer in ("yes", "no")
        return Sample(
            id=text(row, "id"),
            question=text(row, "question"),
            answers=(answer,),
            images=(row["image"],),
            choices=texts(row, "choices") if row["choices"] else (),
            group=text(row, "group"),
            answer_type="yes_no" if yes_or_no else answer_type,
            chance=0.5 if yes_or_no else chance,
        )

    return sample


def task(
    skill: str,
    title: str,
    role: Role,
    scorers: Mapping[ScorerName, Scorer],
    reader: Callable[[Mapping[str, Any], int], Sample],
    chance: str,
) -> Task:
    """One skill as a task. Its rows come from a file: the demo's manifest says which."""
    return Task(
        name=f"micro_{skill}",
        title=title,
        role=role,
        metric="accuracy",
        source=Source(hub="", split="test", columns=COLUMNS),
        sample=reader,
        prompts={"fixed": prompt},
        scorers=scorers,
        decoding=Decoding(max_new_tokens=6),
        n=180,
        chance=chance,
        groups="picture",
        licence="Apache-2.0; digits: CC-BY-4.0 (UCI Optical Recognition of Handwritten Digits)",
        citation="forgeteval's own pictures; digits from scikit-learn's load_digits",
    )


TASKS = (
    task("color", "Colour of a thing", "held_out", PHRASE, reader("phrase", 1 / 6), "1/6"),
    task("shape", "Shape of a thing", "held_out", PHRASE, reader("phrase", 1 / 5), "1/5"),
    task("presence", "Is it there?", "held_out", YES_NO, reader("yes_no", 1 / 2), "1/2"),
    task("choice", "Which of two is there?", "held_out", CHOICE, reader("letter", 1 / 2), "1/2"),
    task("size", "Small or large", "held_out", PHRASE, reader("phrase", 1 / 2), "1/2"),
    task("digit", "Digits, in words", "held_out", PHRASE, reader("integer", 1 / 10), "1/10"),
    task("species", "Birds by name", "target", PHRASE, reader("phrase", 1 / 12), "1/12"),
    task("count", "One to nine dots", "target", NUMBER, reader("integer", 1 / 9), "1/9"),
    task("path", "Tissue: texture", "target", PHRASE, reader("phrase", 1 / 6), "1/2 or 1/6"),
    task("clock", "Clock, quarter hours", "target", TIME, reader("time", 1 / 48), "1/48"),
)
