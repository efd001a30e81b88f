"""PixMo-Count: how many of a named thing are in a photograph (0 to 10 and a few more).

The original rows hold addresses and hashes of pictures; mirrors hold the pictures and a sentence
as answer ("There are 3 dogs in this image.").
"""

from harness.prompts import place_images, printed_settings
from harness.rows import Row, columns, images, text
from harness.scoring import SCORERS
from harness.scoring.number import count_of_gold, written
from harness.types import BY_PIXELS, MAJORITY, Decoding, Prompt, Sample, Source, Task

POST = (
    "\nAnswer with integer and nothing else. For example, if the answer is 1, you should output 1."
)


def sample(row: Row, index: int) -> Sample:
    if row.get("question"):
        question = text(row, "question").replace("\n<image>", "")
    else:
        question = f"How many {text(row, 'label')} are in this image?"
    answer = text(row, "count", "answer")
    count = count_of_gold(answer)
    return Sample(
        id=f"{index:06d}",
        question=question,
        answers=(answer if count is None else written(count),),
        images=images(row),
        group=str(row.get("image_sha256") or BY_PIXELS),
        answer_type="integer",
        chance=MAJORITY,
        doc=columns(row),
    )


def fixed(sample: Sample) -> Prompt:
    return place_images(sample.question + POST, sample)


def lmm_cl(sample: Sample) -> Prompt:
    return place_images(printed_settings(POST) + sample.question, sample)


TASK = Task(
    name="pixmo_count",
    title="PixMo-Count",
    role="target",
    metric="accuracy",
    source=Source(
        hub="allenai/pixmo-count",
        split="test",
        columns=("image|image_url", "question|label", "answer|count"),
        aliases=("kcz358/pixmo-count",),
    ),
    sample=sample,
    prompts={"fixed": fixed, "lmm_cl": lmm_cl},
    scorers=SCORERS["pixmo_count"],
    decoding=Decoding(max_new_tokens=16),
    n=540,
    chance="commonest",
    groups="image_sha256",
    licence="ODC-BY 1.0",
    citation="arXiv:2409.17146",
)
