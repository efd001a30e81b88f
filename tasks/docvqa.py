"""DocVQA: questions on scanned documents, one page each."""

from harness.prompts import SHORT, then
from harness.rows import Row, answer_type, columns, images, text, texts
from harness.scoring import SCORERS
from harness.types import Decoding, Sample, Source, Task


def sample(row: Row, index: int) -> Sample:
    answers = texts(row, "answers")
    document = row.get("ucsf_document_id") or row.get("docId") or ""
    return Sample(
        id=text(row, "questionId"),
        question=text(row, "question"),
        answers=answers,
        images=images(row),
        group=f"{document}/{row.get('ucsf_document_page_no') or ''}".strip("/"),
        answer_type=answer_type(answers[0]),
        doc=columns(row),
    )


TASK = Task(
    name="docvqa",
    title="DocVQA",
    role="held_out",
    metric="ANLS",
    source=Source(
        hub="lmms-lab/DocVQA",
        config="DocVQA",
        split="validation",
        columns=("questionId", "question", "answers", "image", "ucsf_document_id|docId"),
        aliases=("lmms-lab-encoder/DocVQA",),
    ),
    sample=sample,
    prompts=then(SHORT),
    scorers=SCORERS["docvqa"],
    decoding=Decoding(max_new_tokens=32),
    n=5349,
    chance="0",
    groups="document page",
    licence="research only",
    citation="arXiv:2007.00398",
)
