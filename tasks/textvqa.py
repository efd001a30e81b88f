"""TextVQA: questions whose answer is written in the picture; ten annotators each."""

from collections import Counter

from harness.prompts import SHORT, both, place_images
from harness.rows import Row, answer_type, columns, images, open_chance, text, texts
from harness.scoring import SCORERS
from harness.types import Decoding, Prompt, Sample, Source, Task


def sample(row: Row, index: int) -> Sample:
    given = texts(row, "answers")
    counts = Counter(given)
    answers = tuple(sorted(given, key=lambda answer: -counts[answer]))
    return Sample(
        id=text(row, "question_id"),
        question=text(row, "question"),
        answers=answers,
        images=images(row),
        group=str(row.get("image_id") or ""),
        answer_type=answer_type(answers[0]),
        chance=open_chance(answers[0]),
        doc=columns(row),
    )


def prompt(sample: Sample) -> Prompt:
    # The references capitalise so: everything after the first letter becomes lower case.
    return place_images(sample.question.capitalize() + SHORT, sample)


TASK = Task(
    name="textvqa",
    title="TextVQA",
    role="target",
    metric="VQA accuracy",
    source=Source(
        hub="lmms-lab/textvqa",
        split="validation",
        columns=("question_id", "image_id", "question", "image", "answers"),
        aliases=("lmms-lab-encoder/textvqa",),
    ),
    sample=sample,
    prompts=both(prompt),
    scorers=SCORERS["textvqa"],
    decoding=Decoding(max_new_tokens=64),
    n=5000,
    chance="0",
    groups="image_id",
    licence="CC BY 4.0",
    citation="arXiv:1904.08920",
)
