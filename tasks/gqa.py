"""GQA: compositional questions on scenes; questions and pictures are two tables."""

from harness.prompts import SHORT, then
from harness.rows import Row, answer_type, columns, images, open_chance, text
from harness.scoring import SCORERS
from harness.types import Decoding, ImageTable, Sample, Source, Task


def sample(row: Row, index: int) -> Sample:
    answer = text(row, "answer")
    return Sample(
        id=text(row, "id"),
        question=text(row, "question"),
        answers=(answer,),
        images=images(row),
        group=text(row, "imageId"),
        answer_type=answer_type(answer),
        chance=open_chance(answer),
        doc=columns(row),
    )


TASK = Task(
    name="gqa",
    title="GQA",
    role="held_out",
    metric="exact match",
    source=Source(
        hub="lmms-lab/GQA",
        config="testdev_balanced_instructions",
        split="testdev",
        columns=("id", "imageId", "question", "answer", "image"),
        aliases=("lmms-lab-encoder/GQA",),
        images=ImageTable(config="testdev_balanced_images", key="id", on="imageId"),
    ),
    sample=sample,
    prompts=then(SHORT),
    scorers=SCORERS["gqa"],
    decoding=Decoding(max_new_tokens=16),
    n=12578,
    chance="1/2 or 0",
    groups="imageId",
    licence="CC BY 4.0",
    citation="arXiv:1902.09506",
)
