"""The nouns of the road: what a task hands to a prompt, an engine, the store and a scorer.

Values only. Nothing here reads a file, imports an engine or decides anything; every other module
imports these names and none re-defines them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

if TYPE_CHECKING:
    from PIL import Image as PILImage

Role = Literal["target", "held_out", "probe"]
Profile = Literal["fixed", "lmm_cl"]
# Diagnostics of a checkpoint: `harness.diagnostics` says what each is.
Kind = Literal["forced", "free-running", "choices"]
KINDS: tuple[Kind, ...] = get_args(Kind)
ScorerName = Literal["strict", "lenient", "lmm_cl", "lmms_eval"]
# What kind of answer a question asks for; the drift diagnostics compare it with what was given.
AnswerType = Literal["letter", "yes_no", "integer", "decimal", "time", "phrase", "sentence"]

# The scorer of benchmarks that bring a metric of their own: lm-eval's filters and metrics decide.
OWN_METRIC = "lm_eval"

# What a task leaves to the source, because only the source sees all rows and pixels:
# as `Sample.group`: the hash of the first image's decoded pixels (data without image ids);
BY_PIXELS = "<pixels>"
# as `Sample.chance`: how often the commonest gold answer is right (counting has no options).
MAJORITY = float("nan")

# A prompt is a sequence of text pieces and image slots; an int is the index of a sample's image.
# A plain string means "all images first, then this text".
Prompt = str | tuple[str | int, ...]


class Image(Protocol):
    """An image that is read and decoded only when it is needed."""

    @property
    def sha256(self) -> str:
        """Hash of the encoded bytes (hex): the identity used by caches."""

    def read(self) -> bytes:
        """The encoded bytes. Raises SampleError when they cannot be had."""

    def decode(self) -> PILImage.Image:
        """The picture as RGB, EXIF rotation applied. Raises SampleError with a short reason."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One question with its image(s) and answer(s)."""

    id: str
    """Unique within the task and stable from load to load."""
    question: str
    answers: tuple[str, ...]
    """Accepted gold answers; the first is the canonical one. For choice questions the letter."""
    images: tuple[Image, ...] = ()
    choices: tuple[str, ...] = ()
    """Option texts, without letters, in order; empty for open questions."""
    group: str = ""
    """The image (or document) shared with other samples: the unit of clustering. "" = own group.
    `BY_PIXELS` is replaced when a source is loaded."""
    answer_type: AnswerType = "phrase"
    chance: float = 0.0
    """Expected score of guessing, in [0, 1]. `MAJORITY` is replaced when a source is loaded."""
    doc: Mapping[str, Any] = field(default_factory=dict)
    """Further source columns that the scorers or the headline need; JSON values, never images."""


@dataclass(frozen=True, slots=True)
class Decoding:
    """How an answer is generated. Greedy always."""

    max_new_tokens: int = 16
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Probe:
    """How an answer is read position by position while it is given: every token's distribution.

    Without `tokens` the model gives its own answer. With them it is teacher-forced: each position
    is read as the model would go on, then the given token is put there, so that all checkpoints
    are read on the same words.
    """

    tokens: tuple[int, ...] = ()
    """The answer to force, its end token included."""
    top_ids: tuple[tuple[int, ...], ...] = ()
    """Position -> tokens whose probabilities are compared: the base's likeliest, as many each."""
    top_logs: tuple[tuple[float, ...], ...] = ()
    """Position -> the base's log-probabilities (nats) of those, and last of all others together."""
    top_k: int = 0
    """Keep so many of the likeliest tokens, to compare others with; 0 = none."""
    peaks: bool = False
    """Keep the largest probability of one token of each class as well as the class's sum."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a probe read: one value per position of the answer, its end token included."""

    tokens: tuple[int, ...]
    """The answer that was read."""
    top1: tuple[int, ...]
    """The likeliest token."""
    masses: Mapping[str, tuple[float, ...]]
    """Token class -> its probability."""
    peaks: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Token class -> the largest probability of one of its tokens, where it was asked for."""
    top_ids: tuple[tuple[int, ...], ...] = ()
    top_logs: tuple[tuple[float, ...], ...] = ()
    """The likeliest tokens and their log-probabilities as in `Probe`, where they were asked for."""
    kl_forward: tuple[float, ...] = ()
    """KL(base || model) in nats over the base's likeliest tokens and the rest as one bucket: at
    most the KL of the whole distributions."""
    kl_reverse: tuple[float, ...] = ()
    """KL(model || base) over the same buckets."""


@dataclass(frozen=True, slots=True)
class Request:
    """What an engine is given: independent of the checkpoint, so built once for a whole study."""

    sample_id: str
    parts: tuple[str | int, ...]
    """Text pieces and image slots (index into `images`), in order."""
    images: tuple[Image, ...]
    decoding: Decoding
    choices: tuple[str, ...] = ()
    """Continuations to compare when the task is scored by log-likelihood."""
    verbatim: bool = False
    """Another program's prompt: the parts are all that is sent, no user's turn is put around them,
    and choices are tokenized together with the prompt."""
    turns: tuple[tuple[str, int], ...] = ()
    """(role, how many of the parts) of each turn of a verbatim chat; the model's own template is
    put around them. A last turn of the assistant is what the answer goes on from."""
    probe: Probe | None = None
    """Read the answer position by position."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What an engine returned for a request. A failure is a status, never a score."""

    sample_id: str
    status: Literal["ok", "failed"] = "ok"
    text: str = ""
    finish_reason: str = ""
    """`stop` (the model ended), `length` (cut at max_new_tokens); "" when failed."""
    n_prompt_tokens: int = 0
    n_tokens: int = 0
    reason: str = ""
    """Why a failed prediction failed: one line, no machine paths."""
    class_mass: Mapping[str, float] | None = field(default=None, compare=False)
    """Probability mass per token class at the first answer position, where it was measured. No part
    of the answer: batches of other sizes round it otherwise, so equal answers may differ in it."""
    choice_scores: tuple[float, ...] | None = None
    """Log-likelihood of each choice (nats, summed over tokens), where it was asked for."""
    choice_greedy: tuple[bool, ...] | None = None
    """Whether each choice is what greedy decoding would have said; for verbatim requests only."""
    reading: Reading | None = None
    """What the request's probe read."""


@dataclass(frozen=True, slots=True)
class Score:
    """One answer graded by one scorer."""

    value: float | None
    """The headline metric in [0, 1]; None = the scorer does not apply to this sample."""
    parsed: Any = None
    """What the scorer understood the answer to be; None = nothing could be parsed."""
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    """Every metric by name; under the reference's own keys for `lmm_cl` and `lmms_eval`."""


Scorer = Callable[[Sample, str], Score]


@dataclass(frozen=True, slots=True)
class ImageTable:
    """A second table of the same data that holds the images, one row per image."""

    config: str
    """Its configuration on the hub; a folder of that name in a local copy."""
    key: str
    """Its column of image ids; the pictures are in its column `image`."""
    on: str
    """The column of the main table that names the image."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a task's rows come from, and the columns they must have."""

    hub: str
    """Hub data set id. A manifest may override it by a local path (`suite.sources`)."""
    split: str
    columns: tuple[str, ...]
    """Columns that must be there (`a|b`: either); an error lists those found."""
    config: str | None = None
    revision: str | None = None
    aliases: tuple[str, ...] = ()
    """Other ids of the same data (moves and mirrors), tried in order."""
    path: str = ""
    """A local file or folder instead of `hub`, relative to the manifest (a task without code)."""
    images: ImageTable | None = None
    """Where the pictures are when the rows only name them."""


@dataclass(frozen=True, slots=True)
class Headline:
    """How sample scores become a benchmark's number: score units, then a weighted mean.

    `unit`: doc key that joins samples into one scored unit (rotations of one question, pairs on
    one image); `combine` says how. `macro`: doc key of the categories that weigh equally.
    """

    unit: str | None = None
    combine: Literal["mean", "all", "mean_and_all"] = "mean"
    """Score of a unit: mean of its samples; 1 only if all are right; the average of those two."""
    macro: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A benchmark: data source + prompt + scorers. One file in `tasks/` each."""

    name: str
    title: str
    role: Role
    metric: str
    """Name of the headline metric, for example `accuracy`, `anls`."""
    source: Source
    sample: Callable[[Mapping[str, Any], int], Sample]
    """(source row, its index) -> Sample. Image columns arrive as `Image`s."""
    prompts: Mapping[Profile, Callable[[Sample], Prompt]]
    scorers: Mapping[ScorerName, Scorer]
    decoding: Decoding = Decoding()
    headline: Headline = Headline()
    keep: Callable[[Mapping[str, Any]], bool] | None = None
    """Which source rows belong to the task; the others are left out and counted."""
    n: int | None = None
    """Scored samples of the full split as published; None = not known. Never used to compute."""
    chance: str = ""
    """Score of guessing, in words, for people."""
    groups: str = ""
    """What samples of one group share, in words, for people."""
    licence: str = ""
    citation: str = ""
    languages: tuple[str, ...] = ("en",)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model folder whose weights are known by content."""

    path: str
    """Absolute folder of transformers files."""
    fingerprint: str
    """Hash of the weights' bytes and the model configuration (hex)."""
    processor_path: str
    """Folder of tokenizer and processor: its own, or the base's where a stage lacks them."""
    adapter: str = ""
    """Folder of a peft adapter that applies to the weights in `path`; "" = none."""
    blend: tuple[tuple[str, float], ...] = ()
    """WiSE-FT: further folders and their shares; weights = (1 - sum of shares) x path + ..."""
    trust_remote_code: bool = False


# The strategy name of the shared base (stage 0 of every strategy that has none of its own).
BASE = "base"
# `run` of a row that is the mean over the runs of a strategy, and `role` and `benchmark` of a row
# that is the mean over the held-out benchmarks.
MEAN = "mean"
HELD_OUT_MEAN = "held_out"


@dataclass(frozen=True, slots=True, order=True)
class StageKey:
    """One column of a score matrix. The shared base is `StageKey("base", "0", 0)`."""

    strategy: str
    run: str
    stage: int


@dataclass(frozen=True, slots=True)
class Stage:
    """A step of one run of a strategy: the skill it was trained on."""

    key: StageKey
    name: str
    trained_on: str | None = None
    """Benchmark name of the target this stage was trained on; None for the base."""


class Engine(Protocol):
    """Runs requests on one checkpoint at a time; starts once, swaps weights in place."""

    @property
    def identity(self) -> Mapping[str, str]:
        """What of the engine goes into signatures: kind, dtype, library version."""

    def load(self, checkpoint: Checkpoint) -> None:
        """Make `checkpoint` the one that answers, or raise CheckpointError. Never old weights."""

    def generate(self, requests: Sequence[Request]) -> Iterator[Prediction]:
        """One prediction per request, as they finish, in any order."""

    def log_likelihood(self, requests: Sequence[Request]) -> Iterator[Prediction]:
        """Like `generate`, with `choice_scores` for each request's choices and no text."""

    def close(self) -> None: ...


Samples = Sequence[Sample]
Requests = Iterable[Request]
