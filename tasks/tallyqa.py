"""TallyQA: counting questions, simple and complex. Its rows are files, not a hub data set."""

from harness.prompts import then
from harness.rows import Row, columns, images, text
from harness.scoring import SCORERS
from harness.types import MAJORITY, Decoding, Sample, Source, Task


def sample(row: Row, index: int) -> Sample:
    return Sample(
        id=str(row.get("question_id") or f"{index:06d}"),
        question=text(row, "question"),
        answers=(text(row, "answer"),),
        images=images(row),
        group=text(row, "image_id"),
        answer_type="integer",
        chance=MAJORITY,
        doc=columns(row),
    )


TASK = Task(
    name="tallyqa",
    title="TallyQA",
    role="probe",
    metric="accuracy",
    source=Source(
        hub="",
        split="test",
        columns=("image", "question", "answer", "image_id", "issimple"),
    ),
    sample=sample,
    prompts=then("\nAnswer with a single number."),
    scorers=SCORERS["tallyqa"],
    decoding=Decoding(max_new_tokens=16),
    n=38589,
    chance="commonest",
    groups="image_id",
    licence="see site",
    citation="arXiv:1810.12440",
)
