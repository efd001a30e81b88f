"""POPE: is an object in the picture? Six questions a picture, in three ways of choosing objects."""

from harness.prompts import SHORT, both, place_images
from harness.rows import YES_NO_CHANCE, Row, columns, images, text
from harness.scoring import SCORERS
from harness.types import Decoding, Prompt, Sample, Source, Task


def sample(row: Row, index: int) -> Sample:
    return Sample(
        id=f"{text(row, 'category')}-{text(row, 'question_id')}",
        question=text(row, "question"),
        answers=(text(row, "answer"),),
        images=images(row),
        group=str(row.get("image_source") or ""),
        answer_type="yes_no",
        chance=YES_NO_CHANCE,
        doc=columns(row),
    )


def prompt(sample: Sample) -> Prompt:
    return place_images(sample.question.strip() + SHORT, sample)


TASK = Task(
    name="pope",
    title="POPE",
    role="held_out",
    metric="accuracy",
    source=Source(
        hub="lmms-lab/POPE",
        split="test",
        columns=("question_id", "question", "answer", "image_source", "image", "category"),
        aliases=("lmms-lab-encoder/POPE",),
    ),
    sample=sample,
    prompts=both(prompt),
    scorers=SCORERS["pope"],
    decoding=Decoding(max_new_tokens=16),
    n=9000,
    chance="1/2",
    groups="image_source",
    licence="MIT",
    citation="arXiv:2305.10355",
)
