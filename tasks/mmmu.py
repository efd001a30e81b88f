"""MMMU: college questions with one to seven pictures, which stand where the text names them."""

import ast

from harness.prompts import LETTER, SHORT, both, options_block, place_images
from harness.rows import Row, answer_type, chance, columns, images, text
from harness.scoring import SCORERS
from harness.types import Decoding, Prompt, Sample, Source, Task

PICTURES = tuple(f"image_{k}" for k in range(1, 8))


def _list(row: Row, name: str) -> tuple[str, ...]:
    """A list that the source holds as its printed form; another text is a list of one."""
    written = text(row, name).strip()
    if not written.startswith("["):
        return (text(row, name),)
    try:
        items = ast.literal_eval(written)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        shown = f"{written[:60]!r}{' and more' if len(written) > 60 else ''}"
        raise ValueError(f"column {name!r} holds {shown}, expected a list: ['a', 'b']") from None
    return tuple(str(item) for item in items)


def sample(row: Row, index: int) -> Sample:
    is_choice = row.get("question_type") == "multiple-choice"
    options = _list(row, "options") if is_choice else ()
    answers = _list(row, "answer")
    return Sample(
        id=text(row, "id"),
        question=text(row, "question"),
        answers=answers,
        images=images(row, *PICTURES),
        choices=options,
        group=text(row, "id"),
        answer_type="letter" if is_choice else answer_type(answers[0]),
        chance=chance(options),
        doc=columns(row),
    )


def prompt(sample: Sample) -> Prompt:
    options = f"\n{options_block(sample.choices)}\n{LETTER}" if sample.choices else f"\n{SHORT}"
    return place_images(sample.question + options, sample)


TASK = Task(
    name="mmmu",
    title="MMMU",
    role="held_out",
    metric="accuracy",
    source=Source(
        hub="lmms-lab/MMMU",
        split="validation",
        columns=("id", "question", "options", "answer", "question_type", "image_1"),
        aliases=("lmms-lab-encoder/MMMU",),
    ),
    sample=sample,
    prompts=both(prompt),
    scorers=SCORERS["mmmu"],
    decoding=Decoding(max_new_tokens=32),
    n=900,
    chance="1/n or 0",
    groups="id",
    licence="Apache-2.0",
    citation="arXiv:2311.16502",
)
