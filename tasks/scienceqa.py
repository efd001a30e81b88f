"""ScienceQA, the questions with a picture: school science, two to five options."""

from harness.prompts import LETTER, both, options_block, place_images
from harness.rows import Row, chance, columns, images, letter, text, texts
from harness.scoring import SCORERS
from harness.types import BY_PIXELS, Decoding, Prompt, Sample, Source, Task


def sample(row: Row, index: int) -> Sample:
    options = texts(row, "choices")
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
    hint = sample.doc.get("hint")
    context = f"Context: {hint}\n" if hint else ""
    body = f"{context}{sample.question}\n{options_block(sample.choices)}{LETTER}"
    return place_images(body, sample)


TASK = Task(
    name="scienceqa",
    title="ScienceQA (images)",
    role="held_out",
    metric="accuracy",
    source=Source(
        hub="lmms-lab/ScienceQA",
        config="ScienceQA-IMG",
        split="test",
        columns=("image", "question", "choices", "answer", "hint"),
        aliases=("lmms-lab-encoder/ScienceQA",),
    ),
    sample=sample,
    prompts=both(prompt),
    scorers=SCORERS["scienceqa"],
    decoding=Decoding(max_new_tokens=16),
    n=2017,
    chance="1/2 to 1/5",
    groups="pixels",
    licence="CC BY-NC-SA 4.0",
    citation="arXiv:2209.09513",
)
