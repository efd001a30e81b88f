"""One training stage: a component of a checkpoint learns from examples; the rest stays bit for bit.

Runs transformers' Trainer on one GPU or the CPU. A stage appears under its name only when it is
complete, so a killed training leaves nothing that looks like a checkpoint.

The number of threads is the caller's (`torch.set_num_threads`). A model of 1 M parameters wants
one: 80 steps of 32 took 6 s on one thread, and minutes on two when other programs were busy.
"""

from __future__ import annotations

import importlib.util
import math
import os
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForImageTextToText, Trainer, TrainingArguments

from harness import checkpoints, components
from harness.engines.inputs import Inputs
from harness.engines.prompts import Prompter
from harness.errors import CheckpointError
from harness.tune.batches import IGNORED, Collator, Dataset, Encoder, Examples, fingerprint
from harness.tune.recipe import (
    Distillation,
    Recipe,
    RecipeError,
    StageRecord,
    read_record,
    write_record,
)
from harness.types import Checkpoint

Progress = Callable[[int, int, float | None], None]
"""Called after each optimiser step with (steps done, steps in all, loss or None)."""

# Files that make a prompt of a question: a stage answers with its base's, byte for byte.
_PROCESSOR_FILES = (
    *checkpoints.TOKENIZER_FILES,
    *checkpoints.PROCESSOR_FILES,
    "video_preprocessor_config.json",
)


@dataclass(frozen=True, slots=True)
class _Job:
    """A stage in the making."""

    start: Path
    component: str
    recipe: Recipe
    work: Path
    device: torch.device
    low_precision: bool
    """bfloat16 arithmetic with what trains in float32."""


def tune_stage(
    base: Path,
    component: str,
    examples: Examples,
    out: Path,
    recipe: Recipe,
    *,
    trained_on: str | None = None,
    processor_path: Path | None = None,
    progress: Progress | None = None,
) -> StageRecord:
    """Train `component` of the checkpoint `base` and leave a stage in the folder `out`.

    `base`: the checkpoint to start from; the previous stage's in a sequence, and with
    `recipe.lora` a peft adapter's folder too. `component`: an expression of
    `harness.components`. `processor_path`: where tokenizer and processor lie if not in `base`.
    A finished stage of the same start, component, data and recipe is returned as it is; a stage
    made otherwise is never overwritten (RecipeError). Raises CheckpointError and ComponentError
    before anything is trained.
    """
    start = _fingerprint(base)
    data = fingerprint(examples)
    done = _finished(out, (component, recipe.identity(), start, data))
    if done is not None:
        return done
    work = out.with_name(out.name + ".partial")
    work.mkdir(parents=True, exist_ok=True)
    device = _device()
    wants = recipe.dtype == "bfloat16" or (
        recipe.dtype == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported()
    )
    job = _Job(base, component, recipe, work, device, wants)
    torch.manual_seed(recipe.seed)
    with _quiet():
        model, dtype = _load(job)
    _freeze(model, job)
    model = _adapted(model, job) if recipe.lora else model
    inputs = Inputs(_prompter(processor_path or _weights_of(base)), limit_bytes=0)
    dataset = Dataset(examples, Encoder(inputs))
    collator = Collator(_pad(inputs.prompter.tokenizer), dataset.counts)
    trainer = _trainer(model, job, dataset, collator, progress)
    state = _state(work)
    with _quiet(), _measured(device) as cost:
        trainer.train(resume_from_checkpoint=state)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    record = StageRecord(
        component=component,
        recipe=recipe.identity(),
        start_fingerprint=start,
        data_fingerprint=data,
        trained_on=trained_on,
        samples=len(examples),
        samples_skipped=dataset.counts.skipped,
        steps=trainer.state.global_step,
        tokens=dataset.counts.tokens,
        answer_tokens=dataset.counts.answer_tokens,
        loss=float(trainer.mean_loss),
        trainable_parameters=trainable,
        trainable_share=trainable / sum(p.numel() for p in model.parameters()),
        resumed_at_step=int(state.rpartition("-")[2]) if state else 0,
        device=_device_name(device),
        library=f"transformers {transformers.__version__}, torch {torch.__version__}",
        **cost,
    )
    if not math.isfinite(record.loss):
        raise RecipeError(str(out), f"the loss became {record.loss}; use a lower learning rate")
    _save(model, job, dtype, processor_path or _weights_of(base))
    write_record(record, work)
    shutil.rmtree(work / "states", ignore_errors=True)
    work.rename(out)
    return record


def _finished(out: Path, asked: tuple[Any, ...]) -> StageRecord | None:
    """The record of a stage that is already there. Raises RecipeError if it was made otherwise."""
    if not out.exists():
        return None
    record = read_record(out)
    if record is None:
        raise RecipeError(str(out), "the folder exists and is not a stage of ours; name another")
    made = (record.component, record.recipe, record.start_fingerprint, record.data_fingerprint)
    parts = ("component", "recipe", "start checkpoint", "data")
    other = [part for part, got, want in zip(parts, made, asked, strict=True) if got != want]
    if other:
        raise RecipeError(
            str(out),
            f"there is a stage made with another {' and '.join(other)};"
            " remove it to train again, or name another folder",
        )
    return record


def _fingerprint(base: Path) -> str:
    """Of the weights that answer: an adapter's own and those it applies to."""
    own = checkpoints.fingerprint(base)
    return f"{checkpoints.fingerprint(_weights_of(base))}+{own}" if _is_adapter(base) else own


def _is_adapter(folder: Path) -> bool:
    return checkpoints.is_adapter(folder)


def _weights_of(folder: Path) -> Path:
    """The model folder itself, or the one that an adapter names as its base."""
    if not _is_adapter(folder):
        return folder
    named = str(checkpoints.read_config(folder).get("base_model_name_or_path") or "")
    base = folder / named
    if not named or not base.is_dir():
        raise CheckpointError(
            str(folder), f"its adapter_config.json names {named!r} as base; no such folder"
        )
    return base


def _device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda", 0)
    return torch.device("cpu")


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _load(job: _Job) -> tuple[nn.Module, torch.dtype]:
    """The model on the CPU, and the type its checkpoint is stored in."""
    folder = _weights_of(job.start)
    model, info = AutoModelForImageTextToText.from_pretrained(
        folder, dtype="auto", output_loading_info=True, local_files_only=True
    )
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise CheckpointError(
            str(folder), f"{len(missing)} tensors are missing, first {missing[0]}; not trained"
        )
    stored: torch.dtype = model.dtype
    if not job.low_precision:
        model.float()
    if job.recipe.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model, stored


def _prompter(folder: Path) -> Prompter:
    return Prompter(Checkpoint(path=str(folder), fingerprint="", processor_path=str(folder)))


def _pad(tokenizer: Any) -> int:
    found = tokenizer.pad_token_id
    return int(tokenizer.eos_token_id if found is None else found)


def _freeze(model: nn.Module, job: _Job) -> None:
    """Freeze all but the component."""
    named = dict(model.named_parameters())
    chosen = components.names(job.component, named)
    for name, parameter in named.items():
        parameter.requires_grad_(name in chosen)
        if name in chosen and job.low_precision:
            parameter.data = parameter.data.float()


def _adapted(model: nn.Module, job: _Job) -> nn.Module:
    """The model with adapters on the component's linear layers: new ones, or the start's own."""
    import peft

    if _is_adapter(job.start):
        return _as_module(peft.PeftModel.from_pretrained(model, job.start, is_trainable=True))
    lora = job.recipe.lora
    assert lora is not None
    modules = dict(model.named_modules())
    wanted = components.names(job.component, dict(model.named_parameters()))
    owners = sorted({name.rpartition(".")[0] for name in wanted if name.endswith(".weight")})
    linear = [name for name in owners if isinstance(modules[name], nn.Linear)]
    if not linear:
        raise RecipeError(job.component, "has no linear layer that an adapter could sit on")
    config = peft.LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=linear
    )
    return _as_module(peft.get_peft_model(model, config))


def _as_module(adapted: Any) -> nn.Module:
    assert isinstance(adapted, nn.Module)
    return adapted


class _StageTrainer(Trainer):  # type: ignore[misc]
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


def _trainer(
    model: nn.Module, job: _Job, dataset: Dataset, collator: Collator, progress: Progress | None
) -> _StageTrainer:
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
    trainer = _StageTrainer(
        model=model,
        args=arguments,
        train_dataset=dataset,
        data_collator=collator,
        callbacks=[_Reporter(progress)] if progress else [],
        optimizers=(_optimizer(model, recipe), None),
    )
    trainer.remove_callback(transformers.PrinterCallback)
    if recipe.distillation is not None:
        trainer.distillation = recipe.distillation
        trainer.teacher = _teacher(job)
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


def _teacher(job: _Job) -> nn.Module:
    """The checkpoint that the stage starts from, frozen."""
    model, _ = _load(job)
    if _is_adapter(job.start):
        import peft

        model = peft.PeftModel.from_pretrained(model, job.start)
    return model.to(job.device).requires_grad_(False).eval()


def _state(work: Path) -> str | None:
    """The newest state to resume from, if a killed training left one."""
    found = sorted(
        (work / "states").glob("checkpoint-*/trainer_state.json"),
        key=lambda file: int(file.parent.name.rpartition("-")[2]),
    )
    return str(found[-1].parent) if found else None


@contextmanager
def _measured(device: torch.device) -> Iterator[dict[str, Any]]:
    """Fills the cost fields of a StageRecord while its body trains."""
    cost: dict[str, Any] = {}
    tracker = _energy_tracker()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    began = time.perf_counter()
    try:
        yield cost
    finally:
        cost["train_seconds"] = round(time.perf_counter() - began, 3)
        if tracker is not None:
            cost["co2_kg"] = tracker.stop()
            cost["energy_kwh"] = float(tracker.final_emissions_data.energy_consumed)
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
    else:
        # Kilobytes on Linux, bytes on macOS.
        unit = 1 if os.uname().sysname == "Darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    cost["peak_memory_gb"] = round(peak / 1e9, 3)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bars and warnings: stages report through `progress`."""
    logging = transformers.utils.logging
    shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()


def _energy_tracker() -> Any:
    """codecarbon's tracker, started; None where it is not installed."""
    if importlib.util.find_spec("codecarbon") is None:
        return None
    codecarbon = importlib.import_module("codecarbon")
    tracker = codecarbon.EmissionsTracker(save_to_file=False, log_level="error")
    tracker.start()
    return tracker


def _save(model: Any, job: _Job, stored: torch.dtype, processor: Path) -> None:
    """Write the stage: a model folder in the start's layout and type, or an adapter."""
    if job.recipe.lora is not None:
        _save_adapter(model, job)
        return
    model.to(stored)
    with _quiet():
        model.save_pretrained(job.work)
    # Trainer leaves its own switches in the configuration (use_cache: false); tuning changed none.
    shutil.copyfile(_weights_of(job.start) / "config.json", job.work / "config.json")
    for name in _PROCESSOR_FILES:
        if (processor / name).is_file():
            shutil.copyfile(processor / name, job.work / name)


def _save_adapter(model: Any, job: _Job) -> None:
    base = os.path.relpath(_weights_of(job.start).resolve(), job.work.resolve())
    for config in model.peft_config.values():
        config.base_model_name_or_path = base
    # False: looking at the vocabulary would ask the hub.
    model.save_pretrained(job.work, save_embedding_layers=False)
    (job.work / "README.md").unlink(missing_ok=True)
