"""OCRBench: reading of words, documents and formulas; an answer must contain a gold text."""

from harness.prompts import both, place_images
from harness.rows import Row, answer_type, columns, images, text, texts
from harness.scoring import SCORERS
from harness.types import BY_PIXELS, Decoding, Prompt, Sample, Source, Task


def sample(row: Row, index: int) -> Sample:
    answers = texts(row, "answer")
    return Sample(
        id=f"{index:06d}",
        question=text(row, "question"),
        answers=answers,
        images=images(row),
        group=BY_PIXELS,
        answer_type=answer_type(answers[0]),
        doc=columns(row),
    )


def prompt(sample: Sample) -> Prompt:
    return place_images(sample.question.strip(), sample)


TASK = Task(
    name="ocrbench",
    title="OCRBench",
    role="held_out",
    metric="accuracy",
    source=Source(
        hub="echo840/OCRBench",
        split="test",
        columns=("dataset", "question", "question_type", "answer", "image"),
    ),
    sample=sample,
    prompts=both(prompt),
    scorers=SCORERS["ocrbench"],
    decoding=Decoding(max_new_tokens=64),
    n=1000,
    chance="0",
    groups="pixels",
    licence="see card",
    citation="arXiv:2305.07895",
)
