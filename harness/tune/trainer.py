"""The trainer: transformers' Trainer for one stage, with its optimiser, distillation and states.

States hold what trains and nothing else, so that a killed training resumes to the same weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import Trainer, TrainingArguments

from harness import components
from harness.tune.batches import IGNORED, Collator, Dataset
from harness.tune.recipe import Distillation, Recipe

Progress = Callable[[int, int, float | None], None]
"""Called after each optimiser step with (steps done, steps in all, loss or None)."""


@dataclass(frozen=True, slots=True)
class Job:
    """A stage in the making."""

    start: Path
    component: str
    recipe: Recipe
    work: Path
    device: torch.device
    low_precision: bool
    """bfloat16 arithmetic with what trains in float32."""


class StageTrainer(Trainer):  # type: ignore[misc]
    """Trainer that distils from a teacher where there is one, and saves only what trains.

    Trainer's own states cannot be resumed from here: it saves under the checkpoint's names and
    loads under the model's (transformers 5.19), leaving every tensor as it was.
    """

    teacher: nn.Module | None = None
    distillation: Distillation | None = None

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        if self.teacher is None or self.distillation is None:
            return super().compute_loss(model, inputs, *args, **kwargs)
        want_outputs = kwargs.pop("return_outputs", False)
        loss, outputs = super().compute_loss(model, inputs, *args, return_outputs=True, **kwargs)
        with torch.no_grad():
            given = {name: value for name, value in inputs.items() if name != "labels"}
            taught = self.teacher(**given).logits
        items = kwargs.get("num_items_in_batch")
        added = distillation_loss(
            outputs.logits, taught, inputs["labels"], self.distillation.temperature, items
        )
        loss = loss + self.distillation.weight * added
        return (loss, outputs) if want_outputs else loss

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {name: parameter.detach().cpu().contiguous() for name, parameter in self._trained()},
            folder / "trained.safetensors",
        )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        saved = load_file(Path(resume_from_checkpoint) / "trained.safetensors")
        with torch.no_grad():
            for name, parameter in self._trained():
                parameter.copy_(saved[name])

    def _trained(self) -> list[tuple[str, nn.Parameter]]:
        return [(n, p) for n, p in self.model.named_parameters() if p.requires_grad]

    @property
    def mean_loss(self) -> float:
        """Over all steps of this training, nats per answer token."""
        losses = [entry["train_loss"] for entry in self.state.log_history if "train_loss" in entry]
        return float(losses[-1]) if losses else math.nan


def distillation_loss(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, items: Any = None
) -> Tensor:
    """T² x KL(teacher || student) in nats, mean over the tokens with a label.

    `student`, `teacher`: (batch, length, vocabulary) logits; `labels`: (batch, length). `items`:
    number of labelled tokens of the whole optimiser step when gradients are accumulated.
    """
    learned = labels[:, 1:] != IGNORED
    wanted = functional.log_softmax(teacher[:, :-1][learned].float() / temperature, dim=-1)
    got = functional.log_softmax(student[:, :-1][learned].float() / temperature, dim=-1)
    total = functional.kl_div(got, wanted, reduction="sum", log_target=True)
    return total * temperature**2 / (learned.sum() if items is None else items)


class _Reporter(transformers.TrainerCallback):  # type: ignore[misc]
    """Passes the Trainer's steps on to `progress`."""

    def __init__(self, progress: Progress):
        self.progress = progress
        self.loss: float | None = None

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        self.loss = (logs or {}).get("loss", self.loss)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.progress(state.global_step, state.max_steps, self.loss)


def make_trainer(
    model: nn.Module, job: Job, dataset: Dataset, collator: Collator, progress: Progress | None
) -> StageTrainer:
    """A trainer of the parameters that `model` leaves to train; its teacher is the caller's."""
    recipe = job.recipe
    micro = recipe.micro_batch or recipe.batch_size
    per_epoch = math.ceil(len(dataset) / recipe.batch_size)
    steps = recipe.max_steps or math.ceil(per_epoch * recipe.epochs)
    arguments = TrainingArguments(
        output_dir=str(job.work / "states"),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=recipe.batch_size // micro,
        max_steps=steps,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine",
        # The first warm-up step has rate 0: a training of one step would change nothing.
        warmup_steps=min(math.ceil(steps * recipe.warmup), steps - 1),
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_grad_norm,
        bf16=job.low_precision,
        use_cpu=job.device.type == "cpu",
        seed=recipe.seed,
        save_strategy="steps" if recipe.save_every else "no",
        save_steps=recipe.save_every or 500,
        save_total_limit=1,
        logging_strategy="steps" if progress else "no",
        logging_steps=max(1, steps // 20),
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to="none",
        remove_unused_columns=False,
        dataloader_pin_memory=job.device.type == "cuda",
    )
    trainer = StageTrainer(
        model=model,
        args=arguments,
        train_dataset=dataset,
        data_collator=collator,
        callbacks=[_Reporter(progress)] if progress else [],
        optimizers=(_optimizer(model, recipe), None),
    )
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW with the vision tower's own learning rate."""
    groups: dict[bool, list[nn.Parameter]] = {False: [], True: []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[components.place(name).part == "vision"].append(parameter)
    rates = {False: recipe.learning_rate, True: recipe.vision_learning_rate or recipe.learning_rate}
    return torch.optim.AdamW(
        [{"params": group, "lr": rates[vision]} for vision, group in groups.items() if group],
        lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        fused=True,
    )
