"""MME: a yes and a no question on each picture, in fourteen categories.

The headline keeps MME's idea in [0, 1]: per picture the mean of accuracy and "both right", then
the mean over categories. MME's own sums (200 a category) are among the `lmms_eval` aggregates.
"""

from harness.prompts import SHORT, both, place_images
from harness.rows import YES_NO_CHANCE, Row, columns, digest, images, text
from harness.scoring import SCORERS
from harness.types import Decoding, Headline, Prompt, Sample, Source, Task


def sample(row: Row, index: int) -> Sample:
    question = text(row, "question")
    picture = text(row, "question_id")
    return Sample(
        id=f"{picture}#{digest(question)}",
        question=question,
        answers=(text(row, "answer"),),
        images=images(row),
        group=picture,
        answer_type="yes_no",
        chance=YES_NO_CHANCE,
        doc=columns(row),
    )


def prompt(sample: Sample) -> Prompt:
    question = sample.question.strip().replace(" Please answer yes or no.", "")
    return place_images(question + SHORT, sample)


TASK = Task(
    name="mme",
    title="MME",
    role="held_out",
    metric="accuracy+",
    source=Source(
        hub="lmms-lab/MME",
        split="test",
        columns=("question_id", "image", "question", "answer", "category"),
        aliases=("lmms-lab-encoder/MME",),
    ),
    sample=sample,
    prompts=both(prompt),
    scorers=SCORERS["mme"],
    decoding=Decoding(max_new_tokens=16),
    headline=Headline(unit="question_id", combine="mean_and_all", macro="category"),
    n=2374,
    chance="1/2",
    groups="question_id",
    licence="research only",
    citation="arXiv:2306.13394",
)
