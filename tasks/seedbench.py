"""SEED-Bench: multiple choice on pictures in nine kinds. Its video questions are left out."""

from harness.prompts import LETTER, both, options_block, place_images
from harness.rows import Row, chance, columns, images, text
from harness.scoring import SCORERS
from harness.types import Decoding, Prompt, Sample, Source, Task


def is_image(row: Row) -> bool:
    return row.get("data_type") != "video"


def sample(row: Row, index: int) -> Sample:
    options = tuple(text(row, f"choice_{name}") for name in "abcd")
    return Sample(
        id=text(row, "question_id"),
        question=text(row, "question"),
        answers=(text(row, "answer").strip().upper(),),
        images=images(row),
        choices=options,
        group=str(row.get("data_id") or ""),
        answer_type="letter",
        chance=chance(options),
        doc=columns(row),
    )


def prompt(sample: Sample) -> Prompt:
    return place_images(f"{sample.question}\n{options_block(sample.choices)}{LETTER}", sample)


TASK = Task(
    name="seedbench",
    title="SEED-Bench (images)",
    role="held_out",
    metric="accuracy",
    source=Source(
        hub="lmms-lab/SEED-Bench",
        split="test",
        columns=(
            *("question_id", "question", "choice_a", "choice_b", "choice_c", "choice_d"),
            *("answer", "data_id", "data_type", "image"),
        ),
        aliases=("lmms-lab-encoder/SEED-Bench",),
    ),
    sample=sample,
    keep=is_image,
    prompts=both(prompt),
    scorers=SCORERS["seedbench"],
    decoding=Decoding(max_new_tokens=16),
    n=14233,
    chance="1/4",
    groups="data_id",
    licence="CC BY-NC 4.0",
    citation="arXiv:2307.16125",
)
