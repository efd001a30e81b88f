"""ChartQA: values and labels read from charts; half written by people, half by a program."""

from harness.prompts import both, place_images
from harness.rows import Row, answer_type, columns, images, open_chance, text
from harness.scoring import SCORERS
from harness.types import BY_PIXELS, Decoding, Prompt, Sample, Source, Task


def sample(row: Row, index: int) -> Sample:
    answer = text(row, "answer")
    return Sample(
        id=f"{index:06d}",
        question=text(row, "question"),
        answers=(answer,),
        images=images(row),
        group=BY_PIXELS,
        answer_type=answer_type(answer),
        chance=open_chance(answer),
        doc=columns(row),
    )


def prompt(sample: Sample) -> Prompt:
    return place_images(sample.question + "\nAnswer the question with a single word.", sample)


TASK = Task(
    name="chartqa",
    title="ChartQA",
    role="held_out",
    metric="relaxed accuracy",
    source=Source(
        hub="lmms-lab/ChartQA",
        split="test",
        columns=("type", "question", "answer", "image"),
        aliases=("lmms-lab-encoder/ChartQA",),
    ),
    sample=sample,
    prompts=both(prompt),
    scorers=SCORERS["chartqa"],
    decoding=Decoding(max_new_tokens=16),
    n=2500,
    chance="0",
    groups="pixels",
    licence="GPL-3.0",
    citation="arXiv:2203.10244",
)
