"""TimeClock: the time that an analogue clock shows, hours and minutes (within one minute)."""

from harness.prompts import place_images, printed_settings
from harness.rows import clock_sample
from harness.scoring import SCORERS
from harness.types import Decoding, Prompt, Sample, Source, Task

POST = "\nAnswer with the time in HH:MM format. For example, if it's 3:45, output 3:45."


def fixed(sample: Sample) -> Prompt:
    return place_images(sample.question + POST, sample)


def lmm_cl(sample: Sample) -> Prompt:
    return place_images(printed_settings(POST) + sample.question, sample)


TASK = Task(
    name="timeclock",
    title="TimeClock",
    role="target",
    metric="accuracy",
    source=Source(
        hub="AvaXiao/clockreading-time",
        split="train",
        columns=("image", "question", "answer"),
    ),
    sample=clock_sample,
    prompts={"fixed": fixed, "lmm_cl": lmm_cl},
    scorers=SCORERS["timeclock"],
    decoding=Decoding(max_new_tokens=32),
    chance="3/720",
    groups="row",
    licence="not stated",
    citation="arXiv:2510.08564",
)
