"""Pre-training of the micro base from nothing: `forgeteval micro build-base`.

Each step sees 16 scenes with ten questions each and 16 single pictures: mostly digits, and a few
of every target, so that the stages refine skills that the base has met, as real studies do. The
first scenes hold one thing only; without that easy start the words are not tied to things. A
second, shorter cycle of the learning rate brings what needs two things to be told apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

from harness.micro import skills
from harness.micro.model import build_model, build_processor
from harness.micro.packing import Packer, answers

Report = Callable[[int, float], None]
"""Called after each step with (steps done, loss in nats per answer token)."""


@dataclass(frozen=True, slots=True)
class Cycle:
    """One warm-up and cosine of the learning rate, with a fresh optimiser."""

    steps: int
    learning_rate: float
    easy_steps: int = 0
    """So many first steps see scenes of a single thing."""


@dataclass(frozen=True, slots=True)
class PretrainRecipe:
    """How the base is made. Two machines may differ in the last bits, never in the recipe."""

    cycles: tuple[Cycle, ...] = (Cycle(1600, 2.5e-3, easy_steps=320), Cycle(1000, 2e-3))
    scenes: int = 20
    singles: int = 12
    single_share: Mapping[str, float] = field(
        default_factory=lambda: {
            "digit": 0.70,
            "species": 0.06,
            "count": 0.12,
            "path": 0.07,
            "clock": 0.05,
        }
    )
    warmup: float = 0.05
    """Share of a cycle's steps over which the learning rate rises."""
    seed: int = 0

    @property
    def steps(self) -> int:
        """Optimiser steps of all cycles."""
        return sum(cycle.steps for cycle in self.cycles)


def pretrain(
    recipe: PretrainRecipe, report: Report | None = None
) -> tuple[Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor]:
    """A model trained from random weights, and its processor. Minutes on two cores."""
    processor = build_processor()
    model = build_model(processor, recipe.seed)
    model.train()
    done = 0
    for number in range(len(recipe.cycles)):
        for loss in run_cycle(model, Packer(processor), recipe, number):
            done += 1
            if report:
                report(done, loss)
    return model.eval(), processor


def run_cycle(
    model: Qwen2_5_VLForConditionalGeneration, packer: Packer, recipe: PretrainRecipe, number: int
) -> Iterator[float]:
    """Train through cycle `number`; yields the mean loss of each step (nats per answer token)."""
    cycle = recipe.cycles[number]
    rng = np.random.default_rng([recipe.seed, 1 + number])
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=cycle.learning_rate, betas=(0.9, 0.98), weight_decay=0.01
    )
    shares = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: rate(cycle.steps, recipe.warmup, step)
    )
    for step in range(cycle.steps):
        losses = []
        for pictures in draw(recipe, 1 if step < cycle.easy_steps else None, rng):
            logits, labels = answers(model, packer.batch(pictures))
            loss = torch.nn.functional.cross_entropy(logits, labels)
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(float(loss.detach()))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        shares.step()
        yield float(np.mean(losses))


def rate(steps: int, warmup: float, step: int) -> float:
    """Share of the learning rate at `step` of `steps`: linear warm-up, then a cosine to zero."""
    rising = max(1, round(warmup * steps))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def draw(
    recipe: PretrainRecipe, things: int | None, rng: np.random.Generator
) -> tuple[list[skills.Picture], list[skills.Picture]]:
    """The scenes (of `things` things each, None = any number) and single pictures of one step."""
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
        rng = np.random.default_rng([seed, 17, k])
        pictures = [skills.ask(skill, rng, "test") for _ in range(n_pictures)]
        with torch.inference_mode():
            logits, labels = answers(model, packer.batch(pictures))
        right = logits.argmax(-1) == labels
        rights[skill] = float(right[::2].float().mean())  # even rows: the word, odd: the end
    return rights
