"""CUB-200: the species of a bird among 26 options that are written in the question."""

from harness.prompts import LETTER, printed_settings
from harness.rows import Row, chance, columns, images, text
from harness.scoring import SCORERS
from harness.scoring.choice import inline_options
from harness.types import Decoding, Prompt, Sample, Source, Task

# The reference's setting has no line break before its instruction, and neither has its intended
# prompt: the last option and the instruction share a line.
POST = LETTER.lstrip("\n")


def sample(row: Row, index: int) -> Sample:
    question = text(row, "question").replace("\n<image>", "").replace("<image>", "")
    options = inline_options(question)
    return Sample(
        id=f"{index:06d}",
        question=question,
        answers=(text(row, "answer").strip().upper(),),
        images=images(row),
        choices=options,
        answer_type="letter",
        chance=chance(options),
        doc=columns(row),
    )


def fixed(sample: Sample) -> Prompt:
    return sample.question + POST


def lmm_cl(sample: Sample) -> Prompt:
    return printed_settings(POST) + sample.question


TASK = Task(
    name="cub200",
    title="CUB-200-2011",
    role="target",
    metric="accuracy",
    source=Source(
        hub="Jessemel/cub200-test",
        split="train",
        columns=("image", "question", "answer"),
    ),
    sample=sample,
    prompts={"fixed": fixed, "lmm_cl": lmm_cl},
    scorers=SCORERS["cub200"],
    decoding=Decoding(max_new_tokens=16),
    n=5794,
    chance="1/26",
    groups="row",
    licence="research only",
    citation="Wah et al. 2011, CNS-TR-2011-001",
)
