"""InfographicVQA: questions on infographics, some of which need counting or arithmetic."""

from harness.prompts import SHORT, then
from harness.rows import Row, answer_type, columns, images, text, texts
from harness.scoring import SCORERS
from harness.types import Decoding, Sample, Source, Task


def sample(row: Row, index: int) -> Sample:
    answers = texts(row, "answers")
    return Sample(
        id=text(row, "questionId"),
        question=text(row, "question"),
        answers=answers,
        images=images(row),
        group=str(row.get("image_url") or ""),
        answer_type=answer_type(answers[0]),
        # The text of the whole poster as some program read it: large, and nobody asks for it.
        doc={name: value for name, value in columns(row).items() if name != "ocr"},
    )


TASK = Task(
    name="infovqa",
    title="InfographicVQA",
    role="held_out",
    metric="ANLS",
    source=Source(
        hub="lmms-lab/DocVQA",
        config="InfographicVQA",
        split="validation",
        columns=("questionId", "question", "answers", "image", "image_url"),
        aliases=("lmms-lab-encoder/DocVQA",),
    ),
    sample=sample,
    prompts=then(SHORT),
    scorers=SCORERS["infovqa"],
    decoding=Decoding(max_new_tokens=32),
    n=2801,
    chance="0",
    groups="image_url",
    licence="research only",
    citation="arXiv:2104.12756",
)
