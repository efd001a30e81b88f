"""Pre-training of the micro base from nothing: `forgeteval micro build-base`.

Each step sees 16 scenes with ten questions each and 16 single pictures: mostly digits, and a few
of every target, so that the stages refine skills that the base has met, as real studies do. The
first scenes hold one thing only; without that easy start the words are not tied to places.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

from harness.micro import skills
from harness.micro.model import build_model, build_processor
from harness.micro.packing import Packer, answers

Report = Callable[[int, float], None]
"""Called with (steps done, mean loss since the last call)."""


@dataclass(frozen=True, slots=True)
class PretrainRecipe:
    """How the base is made. Two machines may differ in the last bits, never in the recipe."""

    steps: int = 2400
    scenes: int = 16
    singles: int = 16
    single_share: Mapping[str, float] = field(
        default_factory=lambda: {
            "digit": 0.74,
            "species": 0.09,
            "count": 0.08,
            "path": 0.06,
            "clock": 0.03,
        }
    )
    easy_part: float = 0.15
    learning_rate: float = 2.5e-3
    warmup_part: float = 0.05
    seed: int = 0


def pretrain(
    recipe: PretrainRecipe, report: Report | None = None
) -> tuple[Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor]:
    """A model trained from random weights, and its processor. Minutes on two cores."""
    processor = build_processor()
    model = build_model(processor, recipe.seed)
    packer = Packer(processor)
    rng = np.random.default_rng([recipe.seed, 1])
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.01
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(recipe, step))
    model.train()
    losses: list[float] = []
    for step in range(recipe.steps):
        for pictures in draw(recipe, step, rng):
            logits, labels = answers(model, packer.batch(pictures))
            loss = torch.nn.functional.cross_entropy(logits, labels)
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(float(loss.detach()))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if report and (step + 1) % 20 == 0:
            report(step + 1, float(np.mean(losses)))
            losses.clear()
    return model.eval(), processor


def rate(recipe: PretrainRecipe, step: int) -> float:
    """Share of the learning rate at `step`: linear warm-up, then a cosine to zero."""
    warmup = max(1, round(recipe.warmup_part * recipe.steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (recipe.steps - warmup)))


def draw(
    recipe: PretrainRecipe, step: int, rng: np.random.Generator
) -> tuple[list[skills.Picture], list[skills.Picture]]:
    """The scenes and the single pictures of one step."""
    things = 1 if step < recipe.easy_part * recipe.steps else None
    scenes = [skills.scene(rng, things) for _ in range(recipe.scenes)]
    names, shares = zip(*recipe.single_share.items(), strict=True)
    chosen = rng.choice(names, size=recipe.singles, p=shares)
    return scenes, [skills.ask(str(skill), rng) for skill in chosen]


def accuracy(
    model: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    n_pictures: int = 150,
    seed: int = 0,
) -> dict[str, float]:
    """Share of right first words per skill, in [0, 1], on fresh test pictures."""
    packer = Packer(processor)
    rights: dict[str, float] = {}
    for k, skill in enumerate((*skills.HELD_OUT, *skills.TARGETS)):
        rng = np.random.default_rng([seed, 2, k])
        pictures = [skills.ask(skill, rng, "test") for _ in range(n_pictures)]
        with torch.inference_mode():
            logits, labels = answers(model, packer.batch(pictures))
        right = logits.argmax(-1) == labels
        rights[skill] = float(right[::2].float().mean())  # even rows: the word, odd: the end
    return rights
