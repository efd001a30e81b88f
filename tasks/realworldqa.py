"""RealWorldQA: spatial questions on photographs, often from a car; each says how to answer."""

from harness.prompts import both, place_images
from harness.rows import Row, answer_type, chance, columns, images, text
from harness.rows import open_chance as chance_of_open
from harness.scoring import SCORERS
from harness.scoring.choice import inline_options
from harness.types import Decoding, Prompt, Sample, Source, Task


def sample(row: Row, index: int) -> Sample:
    question, answer = text(row, "question"), text(row, "answer")
    options = inline_options(question)
    is_letter = answer.strip().upper() in "ABCDEFGH"[: len(options)]
    return Sample(
        id=f"{index:06d}",
        question=question,
        answers=(answer,),
        images=images(row),
        choices=options if is_letter else (),
        answer_type="letter" if is_letter else answer_type(answer),
        chance=chance(options) if is_letter else chance_of_open(answer),
        doc=columns(row),
    )


def prompt(sample: Sample) -> Prompt:
    return place_images(sample.question.strip(), sample)


TASK = Task(
    name="realworldqa",
    title="RealWorldQA",
    role="held_out",
    metric="accuracy",
    source=Source(
        hub="lmms-lab/RealWorldQA",
        split="test",
        columns=("image", "question", "answer"),
        aliases=("lmms-lab-encoder/RealWorldQA", "xai-org/RealworldQA"),
    ),
    sample=sample,
    prompts=both(prompt),
    scorers=SCORERS["realworldqa"],
    decoding=Decoding(max_new_tokens=16),
    n=765,
    chance="1/n or 0",
    groups="row",
    licence="CC BY-ND 4.0",
    citation="x.ai/blog/grok-1.5v",
)
