"""VQAv2: open questions on COCO pictures; ten annotators each."""

from collections import Counter

from harness.prompts import SHORT, then
from harness.rows import Row, answer_type, columns, images, open_chance, text
from harness.scoring import SCORERS
from harness.types import Decoding, Sample, Source, Task


def _answers(cell: object) -> tuple[str, ...]:
    """What the annotators said: the source holds an object for each of them."""
    listed = [] if cell is None else cell
    if not isinstance(listed, list):
        raise ValueError(f"column 'answers' holds {type(cell).__name__}, expected a list")
    for item in listed:
        if not isinstance(item, dict):
            name = type(item).__name__
            raise ValueError(f"column 'answers' lists {name}, expected objects with 'answer'")
    return tuple(text(item, "answer") for item in listed) or ("",)


def sample(row: Row, index: int) -> Sample:
    given = _answers(row["answers"])
    counts = Counter(given)
    answers = tuple(sorted(given, key=lambda answer: -counts[answer]))
    return Sample(
        id=text(row, "question_id"),
        question=text(row, "question"),
        answers=answers,
        images=images(row),
        group=str(row.get("image_id") or ""),
        answer_type=answer_type(answers[0]),
        chance=open_chance(answers[0]),
        doc=columns(row),
    )


TASK = Task(
    name="vqav2",
    title="VQAv2",
    role="held_out",
    metric="VQA accuracy",
    source=Source(
        hub="lmms-lab/VQAv2",
        split="validation",
        columns=("question_id", "image_id", "question", "answers", "image"),
        aliases=("lmms-lab-encoder/VQAv2",),
    ),
    sample=sample,
    prompts=then(SHORT),
    scorers=SCORERS["vqav2"],
    decoding=Decoding(max_new_tokens=16),
    n=214354,
    chance="1/2 or 0",
    groups="image_id",
    licence="CC BY 4.0",
    citation="arXiv:1612.00837",
)
