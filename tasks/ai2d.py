"""AI2D: multiple choice on school diagrams."""

from harness.prompts import LETTER, both, options_block, place_images
from harness.rows import Row, chance, columns, images, letter, text, texts
from harness.scoring import SCORERS
from harness.types import BY_PIXELS, Decoding, Prompt, Sample, Source, Task


def sample(row: Row, index: int) -> Sample:
    options = texts(row, "options")
    return Sample(
        id=f"{index:06d}",
        question=text(row, "question"),
        answers=(letter(text(row, "answer"), options),),
        images=images(row),
        choices=options,
        group=BY_PIXELS,
        answer_type="letter",
        chance=chance(options),
        doc=columns(row),
    )


def prompt(sample: Sample) -> Prompt:
    return place_images(f"{sample.question}\n{options_block(sample.choices)}{LETTER}", sample)


TASK = Task(
    name="ai2d",
    title="AI2D",
    role="held_out",
    metric="accuracy",
    source=Source(
        hub="lmms-lab/ai2d",
        split="test",
        columns=("question", "options", "answer", "image"),
        aliases=("lmms-lab-encoder/ai2d",),
    ),
    sample=sample,
    prompts=both(prompt),
    scorers=SCORERS["ai2d"],
    decoding=Decoding(max_new_tokens=16),
    n=3088,
    chance="1/4",
    groups="pixels",
    licence="see card",
    citation="arXiv:1603.07396",
)
