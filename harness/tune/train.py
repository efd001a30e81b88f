"""One training stage: a component of a checkpoint learns from examples; the rest stays bit for bit.

Runs transformers' Trainer on one GPU or the CPU. A stage appears under its name only when it is
complete, so a killed training leaves nothing that looks like a checkpoint.

The number of threads is the caller's (`torch.set_num_threads`). A model of 1 M parameters wants
one: 80 steps of 32 took 6 s on one thread, and minutes on two when other programs were busy.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoModelForImageTextToText

from harness import checkpoints, components
from harness.engines.inputs import Inputs
from harness.engines.prompts import Prompter
from harness.errors import CheckpointError
from harness.tune.batches import Collator, Dataset, Encoder, Examples, fingerprint
from harness.tune.cost import measured
from harness.tune.recipe import Recipe, RecipeError, StageRecord, read_record, write_record
from harness.tune.trainer import Job, Progress, StageTrainer, make_trainer
from harness.types import Checkpoint

# Files that make a prompt of a question: a stage answers with its base's, byte for byte.
_PROCESSOR_FILES = (
    *checkpoints.TOKENIZER_FILES,
    *checkpoints.PROCESSOR_FILES,
    "video_preprocessor_config.json",
)


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
    made_of: dict[str, Any] = {
        "component": component,
        "recipe": recipe.identity(),
        "start_fingerprint": _fingerprint(base),
        "data_fingerprint": fingerprint(examples),
    }
    done = _finished(out, made_of)
    if done is not None:
        return done
    job = _job(base, component, recipe, out.with_name(out.name + ".partial"))
    torch.manual_seed(recipe.seed)
    with _quiet():
        model, dtype = _load(job)
    _freeze(model, job)
    model = _adapted(model, job) if recipe.lora else model
    processor = processor_path or _weights_of(base)
    went = _train(model, job, examples, processor, progress)
    record = StageRecord(**made_of, **went, trained_on=trained_on)
    if not math.isfinite(record.loss):
        raise RecipeError(str(out), f"the loss became {record.loss}; use a lower learning rate")
    _save(model, job, dtype, processor)
    write_record(record, job.work)
    shutil.rmtree(job.work / "states", ignore_errors=True)
    job.work.rename(out)
    return record


def _train(
    model: Any, job: Job, examples: Examples, processor: Path, progress: Progress | None
) -> dict[str, Any]:
    """Trains the model in place; what happened and what it cost, as fields of a stage's record."""
    inputs = Inputs(_prompter(processor), limit_bytes=0)
    dataset = Dataset(examples, Encoder(inputs))
    collator = Collator(_pad(inputs.prompter.tokenizer), dataset.counts)
    trainer = make_trainer(model, job, dataset, collator, progress)
    if job.recipe.distillation is not None:
        trainer.teacher, trainer.distillation = _teacher(job), job.recipe.distillation
    state = _state(job.work)
    with _quiet(), measured(job.device) as cost:
        trainer.train(resume_from_checkpoint=state)
    return {
        **_went(trainer, dataset),
        **cost,
        "resumed_at_step": int(state.rpartition("-")[2]) if state else 0,
        "device": _device_name(job.device),
        "library": f"transformers {transformers.__version__}, torch {torch.__version__}",
    }


def _job(start: Path, component: str, recipe: Recipe, work: Path) -> Job:
    work.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    low_precision = recipe.dtype == "bfloat16" or (
        recipe.dtype == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported()
    )
    return Job(start, component, recipe, work, device, low_precision)


def _went(trainer: StageTrainer, dataset: Dataset) -> dict[str, Any]:
    """What a training did, as fields of its record."""
    parameters = list(trainer.model.parameters())
    trainable = sum(p.numel() for p in parameters if p.requires_grad)
    return {
        "samples": len(dataset),
        "samples_skipped": dataset.counts.skipped,
        "steps": trainer.state.global_step,
        "tokens": dataset.counts.tokens,
        "answer_tokens": dataset.counts.answer_tokens,
        "loss": float(trainer.mean_loss),
        "trainable_parameters": trainable,
        "trainable_share": trainable / sum(p.numel() for p in parameters),
    }


def _finished(out: Path, made_of: Mapping[str, Any]) -> StageRecord | None:
    """The record of a stage that is already there. Raises RecipeError if it was made otherwise."""
    if not out.exists():
        return None
    record = read_record(out)
    if record is None:
        raise RecipeError(str(out), "the folder exists and is not a stage of ours; name another")
    words = {"start_fingerprint": "start checkpoint", "data_fingerprint": "data"}
    other = [words.get(k, k) for k, wanted in made_of.items() if getattr(record, k) != wanted]
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
    return (
        f"{checkpoints.fingerprint(_weights_of(base))}+{own}"
        if checkpoints.is_adapter(base)
        else own
    )


def _weights_of(folder: Path) -> Path:
    """The model folder itself, or the one that an adapter names as its base."""
    if not checkpoints.is_adapter(folder):
        return folder
    named = str(checkpoints.read_config(folder).get("base_model_name_or_path") or "")
    base = folder / named
    if not named or not base.is_dir():
        raise CheckpointError(
            str(folder), f"its adapter_config.json names {named!r} as base; no such folder"
        )
    return base


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _load(job: Job) -> tuple[nn.Module, torch.dtype]:
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


def _freeze(model: nn.Module, job: Job) -> None:
    """Freeze all but the component."""
    named = dict(model.named_parameters())
    chosen = components.names(job.component, named)
    for name, parameter in named.items():
        parameter.requires_grad_(name in chosen)
        if name in chosen and job.low_precision:
            parameter.data = parameter.data.float()


def _adapted(model: nn.Module, job: Job) -> nn.Module:
    """The model with adapters on the component's linear layers: new ones, or the start's own."""
    import peft

    if checkpoints.is_adapter(job.start):
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


def _teacher(job: Job) -> nn.Module:
    """The checkpoint that the stage starts from, frozen."""
    model, _ = _load(job)
    if checkpoints.is_adapter(job.start):
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


def _save(model: Any, job: Job, stored: torch.dtype, processor: Path) -> None:
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


def _save_adapter(model: Any, job: Job) -> None:
    base = os.path.relpath(_weights_of(job.start).resolve(), job.work.resolve())
    for config in model.peft_config.values():
        config.base_model_name_or_path = base
    # False: looking at the vocabulary would ask the hub.
    model.save_pretrained(job.work, save_embedding_layers=False)
    (job.work / "README.md").unlink(missing_ok=True)
