"""Training batches: a question with its pictures as the prompt, loss on the answer alone.

The prompt is built exactly as for scoring (chat template, then the processor), tokenised by
itself, and the answer's tokens follow, as they do when the model generates.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from harness.errors import DataError, Problem, SampleError
from harness.types import Image

IGNORED = -100
# Inputs as long as the token sequence, and what fills them up to the longest of a batch.
_PADDING = {
    "input_ids": None,
    "attention_mask": 0,
    "labels": IGNORED,
    "mm_token_type_ids": 0,
    "token_type_ids": 0,
}


@dataclass(frozen=True, slots=True)
class Example:
    """One training sample."""

    parts: tuple[str | int, ...]
    """Text pieces and image slots (index into `images`), in order."""
    images: tuple[Image, ...]
    answer: str


# Ready tensors of one sample: `input_ids` and `labels` (1-D, equally long), further sequence
# inputs of that length, and whatever else `forward` takes, joined along the first dimension.
Tensors = Mapping[str, Tensor]
Examples = Sequence[Example] | Sequence[Tensors]


@dataclass
class Counts:
    """What went by while training."""

    skipped: int = 0
    tokens: int = 0
    answer_tokens: int = 0


@dataclass(frozen=True, slots=True)
class _Decoded:
    example: Example
    images: tuple[Any, ...]


@dataclass
class Dataset(torch.utils.data.Dataset[Any]):
    """Examples by index, pictures decoded; one that cannot be decoded gives way to the next."""

    examples: Examples
    counts: Counts = field(default_factory=Counts)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> _Decoded | Tensors:
        for step in range(len(self.examples)):
            example = self.examples[(index + step) % len(self.examples)]
            if not isinstance(example, Example):
                return example
            try:
                return _Decoded(example, tuple(image.decode() for image in example.images))
            except SampleError:
                self.counts.skipped += 1
        raise DataError("training data", "none of the images can be read")


@dataclass
class Collator:
    """Joins examples into the keyword arguments of a model's `forward`."""

    processor: Any
    counts: Counts

    def __call__(self, items: Sequence[_Decoded | Tensors]) -> dict[str, Tensor]:
        ready = [item for item in items if not isinstance(item, _Decoded)]
        decoded = [item for item in items if isinstance(item, _Decoded)]
        if ready and decoded:
            raise DataError("training data", "got examples and ready tensors mixed; give one kind")
        batch = join(ready, self._pad) if ready else self._encode(decoded)
        self.counts.tokens += int(batch["attention_mask"].sum())
        self.counts.answer_tokens += int((batch["labels"] != IGNORED).sum())
        return batch

    @property
    def _pad(self) -> int:
        tokenizer = self.processor.tokenizer
        found = tokenizer.pad_token_id
        return int(tokenizer.eos_token_id if found is None else found)

    def _encode(self, items: Sequence[_Decoded]) -> dict[str, Tensor]:
        images = [image for item in items for image in item.images]
        encoded = self.processor(
            text=[render(self.processor, item.example.parts) for item in items],
            images=images or None,
            padding=True,
            return_tensors="pt",
        )
        sequences = [name for name in _PADDING if name in encoded]
        kept = encoded["attention_mask"].bool()
        rows = []
        for i, item in enumerate(items):
            answer = torch.tensor(answer_ids(self.processor, item.example), dtype=torch.long)
            prompt = {name: encoded[name][i][kept[i]] for name in sequences}
            after = {name: torch.zeros_like(answer) for name in sequences}
            after |= {"input_ids": answer, "attention_mask": torch.ones_like(answer)}
            row = {name: torch.cat([prompt[name], after[name]]) for name in sequences}
            ignored = torch.full_like(prompt["input_ids"], IGNORED)
            rows.append(row | {"labels": torch.cat([ignored, answer])})
        whole = {name: value for name, value in encoded.items() if name not in _PADDING}
        return join(rows, self._pad) | whole


def messages(parts: Sequence[str | int]) -> list[dict[str, Any]]:
    """The prompt as one turn of a chat, in the form that chat templates take."""
    content = [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"}
        for part in parts
    ]
    return [{"role": "user", "content": content}]


def render(processor: Any, parts: Sequence[str | int]) -> str:
    """The prompt as text up to where the model begins to answer."""
    return str(processor.apply_chat_template(messages(parts), add_generation_prompt=True))


def answer_ids(processor: Any, example: Example) -> list[int]:
    """The tokens to learn: the answer as the chat template closes it, up to its end mark."""
    prompt = render(processor, example.parts)
    reply = {"role": "assistant", "content": [{"type": "text", "text": example.answer}]}
    whole = str(processor.apply_chat_template([*messages(example.parts), reply]))
    end = processor.tokenizer.eos_token
    tail = whole[len(prompt) :] if whole.startswith(prompt) else example.answer
    tail = tail[: tail.rfind(end)] if end in tail else tail.rstrip()
    ids = processor.tokenizer(tail, add_special_tokens=False)["input_ids"]
    return [*ids, processor.tokenizer.eos_token_id]


def join(rows: Sequence[Tensors], pad: int) -> dict[str, Tensor]:
    """Rows of one batch: sequences padded on the right, everything else along dimension 0.

    Raises DataError where the rows do not fit together.
    """
    keys = rows[0].keys()
    if any(row.keys() != keys for row in rows) or not {"input_ids", "labels"} <= keys:
        found = sorted({name for row in rows for name in row})
        raise DataError(
            "training data",
            f"ready tensors need input_ids and labels and the same keys each; got {found}",
        )
    longest = max(len(row["input_ids"]) for row in rows)
    filler = _PADDING | {"input_ids": pad}
    batch = {
        name: torch.stack([_padded(row[name], longest, filler[name] or 0) for row in rows])
        if name in filler
        else torch.cat([row[name] for row in rows])
        for name in keys
    }
    if "attention_mask" not in batch:
        lengths = torch.tensor([len(row["input_ids"]) for row in rows])
        batch["attention_mask"] = (torch.arange(longest) < lengths[:, None]).long()
    return batch


def fingerprint(examples: Examples) -> str:
    """Hash (hex) of what is trained on, in order. Raises DataError when there is nothing."""
    if not len(examples):
        raise DataError("training data", [Problem("", "no samples; nothing to train on")])
    digest = hashlib.sha256()
    for example in examples:
        if isinstance(example, Example):
            digest.update(repr((example.parts, example.answer)).encode())
            digest.update("".join(image.sha256 for image in example.images).encode())
        else:
            for name in sorted(example):
                tensor = example[name].contiguous()
                digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
                digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _padded(row: Tensor, length: int, value: int) -> Tensor:
    return torch.nn.functional.pad(row, (0, length - len(row)), value=value)
