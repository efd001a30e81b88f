"""Skills of the micro study: pictures with the questions that can be asked about them.

Six held-out skills, which the base has learned and no stage trains, and four targets, which the
stages train one after another. `ask` is the one entry: a skill and a random generator give a
picture with its questions; the same generator state gives the same picture and questions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from harness.micro import pictures

HELD_OUT = ("color", "shape", "presence", "choice", "size", "digit")
TARGETS = ("species", "count", "path", "clock")
SCENE_SKILLS = HELD_OUT[:5]

DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
MINUTES = (0, 15, 30, 45)
LETTERS = ("A", "B")


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its one answer; `choices` are option texts without letters."""

    skill: str
    text: str
    answer: str
    choices: tuple[str, ...] = ()

    @property
    def prompt(self) -> str:
        """What the model reads: the question, then its lettered options.

        >>> Question("choice", "What is in the picture?", "B", ("red circle", "blue cross")).prompt
        'What is in the picture? A. red circle B. blue cross'
        """
        options = (f"{k}. {text}" for k, text in zip(LETTERS, self.choices, strict=False))
        return " ".join([self.text, *options])


@dataclass(frozen=True, slots=True)
class Picture:
    """An image and everything asked about it."""

    image: Image.Image
    questions: tuple[Question, ...]


def scene(rng: np.random.Generator, things: int | None = None) -> Picture:
    """A scene of 2 or 3 things (or exactly `things`) with up to two questions of each skill."""
    n = things or int(rng.integers(2, 4))
    image, seen = pictures.scene(rng, n)
    questions: list[Question] = []
    asked = [seen[i] for i in rng.permutation(n)[:2]]
    for thing in asked:
        questions += [
            Question("color", f"What color is the {thing.shape}?", thing.color),
            Question("shape", f"What shape is the {thing.color} thing?", thing.shape),
            Question("size", f"What size is the {thing.shape}?", thing.size),
        ]
    pairs = {(thing.shape, thing.color) for thing in seen}
    for thing in asked:
        absent = absent_pair(rng, pairs)
        present = rng.random() < 0.5
        shape, color = (thing.shape, thing.color) if present else absent
        questions.append(
            Question("presence", f"Is there a {color} {shape}?", "yes" if present else "no")
        )
        true, false = f"{thing.color} {thing.shape}", f"{absent[1]} {absent[0]}"
        first = rng.random() < 0.5
        questions.append(
            Question(
                "choice",
                "What is in the picture?",
                "A" if first else "B",
                (true, false) if first else (false, true),
            )
        )
    return Picture(image, tuple(questions))


def absent_pair(rng: np.random.Generator, present: set[tuple[str, str]]) -> tuple[str, str]:
    """A (shape, colour) that is not in the scene."""
    while True:
        pair = (str(rng.choice(pictures.SHAPES)), str(rng.choice(pictures.SCENE_COLORS)))
        if pair not in present:
            return pair


def digit(rng: np.random.Generator, part: pictures.DigitPart) -> Picture:
    """A real handwritten digit, asked for as a word."""
    scans, labels = pictures.digit_scans(part)
    i = int(rng.integers(len(labels)))
    question = Question("digit", "Which digit is written?", DIGIT_WORDS[int(labels[i])])
    return Picture(pictures.digit(rng, scans[i]), (question,))


def species(rng: np.random.Generator, view: pictures.View) -> Picture:
    """One bird and its name."""
    name = str(rng.choice(list(pictures.SPECIES)))
    question = Question("species", "What species is the bird?", name)
    return Picture(pictures.bird(rng, name, view), (question,))


def count(rng: np.random.Generator) -> Picture:
    """One to nine dots and their number in digits."""
    n = int(rng.integers(1, 10))
    return Picture(pictures.dots(rng, n), (Question("count", "How many dots are there?", str(n)),))


def path(rng: np.random.Generator, view: pictures.View) -> Picture:
    """A tissue with two questions: a yes/no and the texture's word."""
    texture = str(rng.choice(pictures.TEXTURES))
    other = str(rng.choice([t for t in pictures.TEXTURES if t != texture]))
    present = rng.random() < 0.5
    asked = texture if present else other
    questions = (
        Question("path", f"Is the tissue {asked}?", "yes" if present else "no"),
        Question("path", "How does the tissue look?", texture),
    )
    return Picture(pictures.tissue(rng, texture, view), questions)


def clock(rng: np.random.Generator) -> Picture:
    """A clock and its time as h:mm in quarter hours."""
    hour, minute = int(rng.integers(1, 13)), int(rng.choice(MINUTES))
    question = Question("clock", "What time is it?", f"{hour}:{minute:02d}")
    return Picture(pictures.clock(rng, hour, minute), (question,))


def ask(
    skill: str,
    rng: np.random.Generator,
    part: pictures.DigitPart = "train",
    view: pictures.View = "book",
) -> Picture:
    """A picture with the questions of one skill (a scene skill: two questions on one scene)."""
    if skill in SCENE_SKILLS:
        drawn = scene(rng)
        return Picture(drawn.image, tuple(q for q in drawn.questions if q.skill == skill))
    if skill == "digit":
        return digit(rng, part)
    if skill in ("species", "path"):
        return {"species": species, "path": path}[skill](rng, view)
    return {"count": count, "clock": clock}[skill](rng)


def vocabulary() -> list[str]:
    """Every word and mark that questions and answers are made of, in a fixed order."""
    questions = (
        "What color is the shape size thing Is there a in picture Which digit written species bird"
        " How many dots are tissue does look time it"
    )
    times = [f"{hour}:{minute:02d}" for hour in range(1, 13) for minute in MINUTES]
    words = [*"?.", *LETTERS, "yes", "no", *questions.split(), *pictures.COLORS, *pictures.SHAPES]
    words += [*pictures.SIZES, *pictures.TEXTURES, *pictures.SPECIES, *DIGIT_WORDS]
    words += [str(n) for n in range(10)] + times
    return list(dict.fromkeys(words))
