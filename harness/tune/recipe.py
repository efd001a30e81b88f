"""A recipe: every number of a training stage, and what a stage leaves on record.

Defaults are those of the reference study (arXiv 2510.08564): one epoch, 5e-6 with a cosine
schedule, warm-up 0.03, no weight decay, batches of 16, the vision tower slower. Values only: no
torch here, so that judging a study can read the records.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from harness.errors import CheckpointError, Problem, UserError

RECORD_FILE = "training.json"
POSITIVE = "more than 0, and finite"


class RecipeError(UserError):
    """A recipe that cannot be trained with."""


def _positive(value: float) -> bool:
    return 0 < value < math.inf


def _check(kind: str, values: object, rules: Mapping[str, tuple[bool, str]]) -> None:
    """Raises RecipeError with every field that is not as its rule (good, expected) wants it."""
    wrong = [
        Problem(f"{kind}.{name}", f"got {getattr(values, name)!r}, expected {expected}")
        for name, (good, expected) in rules.items()
        if not good
    ]
    if wrong:
        raise RecipeError("", wrong)


@dataclass(frozen=True, slots=True)
class Lora:
    """Low-rank adapters on the component's linear layers, instead of the layers themselves.

    Defaults: the reference study's. Its learning rate for them is `LORA_LEARNING_RATE`.
    """

    rank: int = 256
    alpha: float = 32
    dropout: float = 0.05

    def __post_init__(self) -> None:
        _check(
            "lora",
            self,
            {
                "rank": (self.rank > 0, "at least 1"),
                "alpha": (_positive(self.alpha), POSITIVE),
                "dropout": (0 <= self.dropout < 1, "a share in [0, 1)"),
            },
        )


LORA_LEARNING_RATE = 5e-5


@dataclass(frozen=True, slots=True)
class Distillation:
    """Learning without Forgetting (arXiv 1606.09282): stay near the stage started from.

    Adds `weight` x `temperature`² x KL(start || stage) over the vocabulary at the answer tokens.
    """

    weight: float = 1.0
    temperature: float = 2.0

    def __post_init__(self) -> None:
        _check(
            "distillation",
            self,
            {
                # A negative weight would push the stage away from its start.
                "weight": (_positive(self.weight), f"{POSITIVE}; leave --lwf out for none"),
                "temperature": (_positive(self.temperature), POSITIVE),
            },
        )


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a stage is trained."""

    learning_rate: float = 5e-6
    vision_learning_rate: float | None = 2e-6
    """For vision tower parameters; None = `learning_rate`."""
    epochs: float = 1.0
    max_steps: int | None = None
    """Optimiser steps; overrides `epochs` and goes through the data as often as needed."""
    batch_size: int = 16
    """Samples per optimiser step."""
    micro_batch: int | None = None
    """Samples per forward pass (gradients are accumulated); None = `batch_size`."""
    warmup: float = 0.03
    """Share of the steps over which the learning rate rises."""
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    seed: int = 0
    """Of the order of samples, dropout and adapters' first weights."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic: auto = bfloat16 where the device is good at it. What trains is kept in float32
    meanwhile (a step of 5e-6 is lost in bfloat16) and saved in the checkpoint's own type."""
    gradient_checkpointing: bool = False
    lora: Lora | None = None
    distillation: Distillation | None = None
    save_every: int | None = None
    """Steps between states to resume from; None = a killed stage starts again."""

    def __post_init__(self) -> None:
        micro, vision = self.micro_batch, self.vision_learning_rate
        divides = micro is None or (micro > 0 and self.batch_size % micro == 0)
        _check(
            "recipe",
            self,
            {
                "learning_rate": (_positive(self.learning_rate), POSITIVE),
                "vision_learning_rate": (vision is None or _positive(vision), POSITIVE),
                "epochs": (_positive(self.epochs), POSITIVE),
                "max_steps": (self.max_steps is None or self.max_steps > 0, "at least 1"),
                "batch_size": (self.batch_size > 0, "at least 1"),
                "micro_batch": (divides, f"a divisor of batch_size {self.batch_size}"),
                "warmup": (0 <= self.warmup < 1, "a share in [0, 1)"),
                "weight_decay": (0 <= self.weight_decay < math.inf, "0 or more, and finite"),
                "max_grad_norm": (_positive(self.max_grad_norm), POSITIVE),
                "save_every": (self.save_every is None or self.save_every > 0, "at least 1"),
            },
        )

    def identity(self) -> dict[str, Any]:
        """What of the recipe decides the weights (JSON values)."""
        values = asdict(self)
        del values["save_every"]
        return values


def learning_rates(
    rate: float | None, vision_rate: float | None, *, lora: bool
) -> tuple[float, float]:
    """(learning rate, vision tower's) of what was asked for; None = the study's.

    A rate without a vision rate scales the study's vision rate by the same factor: who asks for
    another rate means all that trains, and the tower is not left behind at 2e-6.

    >>> learning_rates(None, None, lora=False), learning_rates(1e-3, None, lora=False)
    ((5e-06, 2e-06), (0.001, 0.0004))
    """
    study = Recipe()
    default = LORA_LEARNING_RATE if lora else study.learning_rate
    chosen = default if rate is None else rate
    if vision_rate is None:
        assert study.vision_learning_rate is not None
        # A rate that is refused is complained of once, not for the tower too.
        factor = chosen / default if _positive(chosen) else 1.0
        # A product such as 0.00039999999999999996 would stand in every record.
        vision_rate = float(f"{study.vision_learning_rate * factor:.6g}")
    return chosen, vision_rate


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRecord:
    """What a stage was made from and what it cost: `training.json` beside its weights."""

    component: str
    recipe: Mapping[str, Any]
    start_fingerprint: str
    """Fingerprint of the checkpoint that training started from."""
    data_fingerprint: str
    """Hash of prompts, images and answers, in order."""
    trained_on: str | None
    samples: int
    samples_skipped: int
    """Samples whose image could not be read; another took their place."""
    steps: int
    tokens: int
    """All tokens that went through the model, image tokens included."""
    answer_tokens: int
    """Tokens with a loss."""
    loss: float
    """Mean over the steps, nats per answer token."""
    trainable_parameters: int
    trainable_share: float
    """Fraction of the model's parameters, in [0, 1]; adapters count as added parameters."""
    train_seconds: float
    peak_memory_gb: float
    """10⁹ bytes: of the GPU where there is one, else of the process."""
    device: str
    library: str
    resumed_at_step: int = 0
    """Tokens, loss, seconds and energy count from this step on; 0 = trained in one go."""
    energy_kwh: float | None = None
    """As `codecarbon` estimates it; None where that is not installed."""
    co2_kg: float | None = None


def write_record(record: StageRecord, folder: Path) -> None:
    """Write `training.json` into a stage's folder."""
    text = json.dumps(asdict(record), indent=2, sort_keys=True)
    (folder / RECORD_FILE).write_text(text + "\n", encoding="utf-8")


def read_record(folder: Path) -> StageRecord | None:
    """The record in a stage's folder; None where there is none. Raises CheckpointError."""
    file = folder / RECORD_FILE
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        known = {field.name for field in fields(StageRecord)}
        return StageRecord(**{name: found[name] for name in found if name in known})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(str(folder), f"{RECORD_FILE} cannot be read: {error}") from None


@dataclass(frozen=True, slots=True)
class Cost:
    """What a strategy costs, over the stages of one run."""

    trainable_share: float
    """Largest of the stages."""
    train_seconds: float
    """Sum."""
    peak_memory_gb: float
    """Largest."""
    tokens: int
    """Sum."""
    energy_kwh: float | None
    """Sum; None unless every stage knows it."""
    co2_kg: float | None


def cost_of(records: Sequence[StageRecord]) -> Cost:
    """The cost of one run from its stages' records; at least one."""
    energy = [record.energy_kwh for record in records if record.energy_kwh is not None]
    carbon = [record.co2_kg for record in records if record.co2_kg is not None]
    return Cost(
        trainable_share=max(record.trainable_share for record in records),
        train_seconds=sum(record.train_seconds for record in records),
        peak_memory_gb=max(record.peak_memory_gb for record in records),
        tokens=sum(record.tokens for record in records),
        energy_kwh=sum(energy) if len(energy) == len(records) else None,
        co2_kg=sum(carbon) if len(carbon) == len(records) else None,
    )
