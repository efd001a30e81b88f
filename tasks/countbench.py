"""CountBench: how many of a thing, two to ten.

The source's column `text` is a caption that states the count: it is never shown.
"""

from harness.prompts import place_images, printed_settings
from harness.rows import Row, columns, images, text
from harness.scoring import SCORERS
from harness.types import MAJORITY, Decoding, Prompt, Sample, Source, Task

POST = "\nAnswer the question with number only."


def sample(row: Row, index: int) -> Sample:
    return Sample(
        id=f"{index:06d}",
        question=text(row, "question"),
        answers=(text(row, "number"),),
        images=images(row),
        answer_type="integer",
        chance=MAJORITY,
        doc=columns(row),
    )


def fixed(sample: Sample) -> Prompt:
    return place_images(sample.question + POST, sample)


def lmm_cl(sample: Sample) -> Prompt:
    return place_images(printed_settings(POST) + sample.question, sample)


TASK = Task(
    name="countbench",
    title="CountBenchQA",
    role="probe",
    metric="accuracy",
    source=Source(
        hub="vikhyatk/CountBenchQA",
        split="test",
        columns=("image", "question", "number"),
    ),
    sample=sample,
    prompts={"fixed": fixed, "lmm_cl": lmm_cl},
    scorers=SCORERS["countbench"],
    decoding=Decoding(max_new_tokens=16),
    n=491,
    chance="commonest",
    groups="row",
    licence="see card",
    citation="arXiv:2302.12066",
)
