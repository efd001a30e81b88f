"""MMBench: multiple choice, asked again with rotated options; a question counts if all are right.

Rotation k of a question has its index plus k million.
"""

from harness.prompts import LETTER, both, options_block, place_images
from harness.rows import Row, chance, columns, images, text, whole
from harness.scoring import SCORERS
from harness.types import Decoding, Headline, Prompt, Sample, Source, Task

ROTATION = 1_000_000


def _there(value: object) -> bool:
    """The source writes a missing text as "nan"."""
    return value is not None and value == value and str(value) not in ("", "nan")


def sample(row: Row, index: int) -> Sample:
    question = whole(row, "index") % ROTATION
    options = tuple(str(row[mark]) for mark in "ABCDE" if _there(row.get(mark)))
    return Sample(
        id=text(row, "index"),
        question=text(row, "question"),
        answers=(text(row, "answer").strip().upper(),),
        images=images(row),
        choices=options,
        group=str(question),
        answer_type="letter",
        chance=chance(options),
        doc={**columns(row), "question_index": question},
    )


def prompt(sample: Sample) -> Prompt:
    hint = sample.doc.get("hint")
    context = f"{hint} " if _there(hint) else ""
    options = options_block(sample.choices)
    body = f"{context}{sample.question} There are several options:\n{options}\n{LETTER}"
    return place_images(body, sample)


TASK = Task(
    name="mmbench",
    title="MMBench (English)",
    role="held_out",
    metric="circular accuracy",
    source=Source(
        hub="lmms-lab/MMBench",
        config="en",
        split="dev",
        columns=("index", "question", "hint", "A", "B", "answer", "category", "image"),
        aliases=("lmms-lab-encoder/MMBench",),
    ),
    sample=sample,
    prompts=both(prompt),
    scorers=SCORERS["mmbench"],
    decoding=Decoding(max_new_tokens=16),
    headline=Headline(unit="question_index", combine="all"),
    n=4329,
    chance="1/n",
    groups="index mod 1e6",
    licence="Apache-2.0",
    citation="arXiv:2307.06281",
)
