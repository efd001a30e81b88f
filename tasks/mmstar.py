"""MMStar: 1,500 questions that cannot be answered without their picture, in 18 categories."""

from harness.prompts import LETTER, both, place_images
from harness.rows import Row, chance, columns, images, text
from harness.scoring import SCORERS
from harness.scoring.choice import inline_options
from harness.types import BY_PIXELS, Decoding, Headline, Prompt, Sample, Source, Task


def sample(row: Row, index: int) -> Sample:
    question = text(row, "question")
    options = inline_options(question)
    origin = row.get("meta_info") or {}
    path = origin.get("image_path")
    return Sample(
        id=text(row, "index"),
        question=question,
        answers=(text(row, "answer").strip().upper(),),
        images=images(row),
        choices=options,
        group=f"{origin.get('source', '')}/{path}" if path else BY_PIXELS,
        answer_type="letter",
        chance=chance(options) or 0.25,
        doc=columns(row),
    )


def prompt(sample: Sample) -> Prompt:
    question = sample.question.strip().replace(" Please answer yes or no.", "")
    return place_images(question + LETTER.rstrip("."), sample)


TASK = Task(
    name="mmstar",
    title="MMStar",
    role="held_out",
    metric="macro accuracy",
    source=Source(
        hub="Lin-Chen/MMStar",
        split="val",
        columns=("index", "question", "image", "answer", "category", "l2_category"),
    ),
    sample=sample,
    prompts=both(prompt),
    scorers=SCORERS["mmstar"],
    decoding=Decoding(max_new_tokens=32),
    headline=Headline(macro="l2_category"),
    n=1500,
    chance="1/4",
    groups="image_path",
    licence="not stated",
    citation="arXiv:2403.20330",
)
