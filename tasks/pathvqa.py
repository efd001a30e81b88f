"""PathVQA: questions on pathology pictures, half of them yes/no, about eight a picture."""

from harness.prompts import both, place_images
from harness.rows import Row, answer_type, columns, images, open_chance, text
from harness.scoring import SCORERS
from harness.types import BY_PIXELS, Decoding, Prompt, Sample, Source, Task

PRE = "Look at the medical image and answer the following question: "
POST = (
    "\nFor questions that can be answered with a yes or no, just answer yes or no. "
    "Otherwise, provide an answer in the medical domain."
)


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
    return place_images(PRE + sample.question + POST, sample)


TASK = Task(
    name="pathvqa",
    title="PathVQA",
    role="target",
    metric="exact match",
    source=Source(
        hub="flaviagiammarino/path-vqa",
        split="test",
        columns=("image", "question", "answer"),
    ),
    sample=sample,
    prompts=both(prompt),
    scorers=SCORERS["pathvqa"],
    decoding=Decoding(max_new_tokens=64),
    n=6719,
    chance="1/2 or 0",
    groups="pixels",
    licence="MIT (card)",
    citation="arXiv:2003.10286",
)
