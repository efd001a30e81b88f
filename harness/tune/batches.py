"""Training batches: a question with its pictures as the prompt, loss on the answer alone.

A prompt is built by the code that builds it for scoring (`harness.engines`), and the answer's
tokens follow it one by one, as they do when the model generates.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from harness.engines import inputs
from harness.engines.inputs import Inputs
from harness.errors import DataError, SampleError
from harness.types import Request

IGNORED = -100


@dataclass(frozen=True, slots=True)
class Example:
    """One training sample."""

    request: Request
    """What the model is asked; decoding parameters play no part."""
    answer: str


# Ready tensors of one sample: `input_ids` and `labels` (1-D, equally long), further inputs of
# that shape, and whatever else `forward` takes, joined along the first dimension.
Tensors = Mapping[str, Tensor]
Examples = Sequence[Example] | Sequence[Tensors]


@dataclass
class Counts:
    """What went by while training."""

    skipped: int = 0
    tokens: int = 0
    answer_tokens: int = 0


class Encoder:
    """Examples -> ready tensors, by one checkpoint's processor."""

    def __init__(self, made: Inputs):
        self._inputs = made

    def __call__(self, example: Example) -> dict[str, Tensor]:
        """Tensors of the example. Raises SampleError where a picture cannot be read."""
        row = self._inputs.row(example.request, lambda _: True)
        answer = torch.tensor(self.answer(example), dtype=torch.long)
        nothing = torch.zeros_like(answer)
        tokens = {name: torch.cat([t, nothing]) for name, t in row.tokens.items()}
        tokens["input_ids"] = torch.cat([row.tokens["input_ids"], answer])
        ignored = torch.full_like(row.tokens["input_ids"], IGNORED)
        labels = torch.cat([ignored, answer])
        return {**tokens, "labels": labels, **row.side, **(row.pixels or {})}

    def answer(self, example: Example) -> list[int]:
        """The tokens to learn: the answer as the chat template closes it, with its end mark.

        Where the template does not continue the prompt with the answer (or there is none), the
        answer's text as it is.
        """
        prompter = self._inputs.prompter
        prompt = prompter.text(example.request)
        tokenizer = prompter.tokenizer
        tail = example.answer
        if getattr(prompter.processor, "chat_template", None):
            turns = [_turn("user", example.request.parts), _turn("assistant", (example.answer,))]
            whole = str(prompter.processor.apply_chat_template(turns, tokenize=False))
            if whole.startswith(prompt):
                tail = whole[len(prompt) :]
        end = tokenizer.eos_token
        tail = tail[: tail.rfind(end)] if end in tail else tail.rstrip()
        ids = tokenizer(tail, add_special_tokens=False)["input_ids"]
        return [*ids, tokenizer.eos_token_id]


def _turn(role: str, parts: Sequence[str | int]) -> dict[str, Any]:
    content = [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"}
        for part in parts
    ]
    return {"role": role, "content": content}


@dataclass
class Dataset(torch.utils.data.Dataset[Tensors]):
    """Examples by index as tensors; one whose picture cannot be read gives way to the next."""

    examples: Examples
    encode: Encoder
    counts: Counts = field(default_factory=Counts)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Tensors:
        for step in range(len(self.examples)):
            example = self.examples[(index + step) % len(self.examples)]
            if not isinstance(example, Example):
                return example
            try:
                return self.encode(example)
            except SampleError:
                self.counts.skipped += 1
        raise DataError("training data", "no picture of it can be read")


@dataclass
class Collator:
    """Joins samples into the keyword arguments of a model's `forward`, padded on the right."""

    pad: int
    counts: Counts

    def __call__(self, rows: Sequence[Tensors]) -> dict[str, Tensor]:
        """The batch. Raises DataError where ready tensors lack what training needs."""
        lacking = {name for row in rows for name in ("input_ids", "labels") if name not in row}
        if lacking:
            found = ", ".join(sorted(rows[0]))
            raise DataError(
                "training data", f"ready tensors lack {', '.join(sorted(lacking))}; got {found}"
            )
        lengths = torch.tensor([len(row["input_ids"]) for row in rows])
        longest = int(lengths.max())
        filler = {"input_ids": self.pad, "labels": IGNORED}
        sequences = [
            {name: t for name, t in row.items() if t.shape == row["input_ids"].shape}
            for row in rows
        ]
        batch = {
            name: torch.stack(
                [_padded(row[name], longest, filler.get(name, 0)) for row in sequences]
            )
            for name in sequences[0]
        }
        others = [
            {name: t for name, t in row.items() if name not in sequence}
            for row, sequence in zip(rows, sequences, strict=True)
        ]
        batch |= inputs.join(others)
        batch.setdefault(
            "attention_mask", (torch.arange(longest) < lengths[:, None]).to(torch.long)
        )
        self.counts.tokens += int(lengths.sum())
        self.counts.answer_tokens += int((batch["labels"] != IGNORED).sum())
        return batch


def fingerprint(examples: Examples) -> str:
    """Hash (hex) of what is trained on, in order. Raises DataError when there is nothing."""
    if not len(examples):
        raise DataError("training data", "no samples; nothing to train on")
    digest = hashlib.sha256()
    for example in examples:
        if isinstance(example, Example):
            request = example.request
            digest.update(repr((request.parts, example.answer)).encode())
            digest.update("".join(image.sha256 for image in request.images).encode())
        else:
            for name in sorted(example):
                tensor = example[name].contiguous()
                digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
                digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _padded(row: Tensor, length: int, value: int) -> Tensor:
    return torch.nn.functional.pad(row, (0, length - len(row)), value=value)
