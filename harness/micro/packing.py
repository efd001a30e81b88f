"""Packed rows: one picture and all its questions in a single sequence.

The picture stands once at the front; every question sees it and itself, never another question,
and has the positions it would have alone. So the model computes for a packed row what it would
for one row per question (a test holds it to that), with the picture's tokens paid once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

from harness.micro.model import IMAGE_TOKENS, PATCH
from harness.micro.pictures import SIDE
from harness.micro.skills import Picture, Question

GRID = SIDE // PATCH  # patches per side
IGNORED = -100  # label of positions that carry no loss


@dataclass(frozen=True, slots=True)
class Pieces:
    """Token ids of the chat around a question; the first picture token is at `image_at`."""

    front: list[int]
    tail: list[int]
    end: int
    image_at: int

    @classmethod
    def of(cls, processor: Qwen2_5_VLProcessor) -> Pieces:
        """The pieces of the processor's own chat template."""
        message = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "?"}]}]
        text = processor.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
        before, after = text.replace("<|image_pad|>", "<|image_pad|>" * IMAGE_TOKENS).split("?")
        front = processor.tokenizer(before)["input_ids"]
        return cls(
            front=front,
            tail=processor.tokenizer(after)["input_ids"],
            end=processor.tokenizer.eos_token_id,
            image_at=front.index(processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")),
        )

    def positions(self) -> torch.Tensor:
        """(3, len(front)) time, height and width positions of the front, as Qwen2.5-VL has them."""
        side = int(IMAGE_TOKENS**0.5)
        places = torch.arange(len(self.front)).repeat(3, 1)
        rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
        image = slice(self.image_at, self.image_at + IMAGE_TOKENS)
        places[0, image] = self.image_at
        places[1, image] = self.image_at + rows.flatten()
        places[2, image] = self.image_at + columns.flatten()
        after = self.image_at + IMAGE_TOKENS
        places[:, after:] += side - IMAGE_TOKENS
        return places


class Packer:
    """Turns pictures into batches of packed rows; token ids of questions are kept."""

    def __init__(self, processor: Qwen2_5_VLProcessor):
        self.processor = processor
        self._pieces = Pieces.of(processor)
        self._front = self._pieces.positions()
        self._known: dict[tuple[str, str], list[int]] = {}

    def tokens(self, question: Question) -> list[int]:
        """Question, end of turn, assistant's turn, answer, end of turn: token ids."""
        key = (question.prompt, question.answer)
        if key not in self._known:
            tokenizer = self.processor.tokenizer
            words = tokenizer(question.prompt)["input_ids"]
            answer = tokenizer(question.answer)["input_ids"]
            self._known[key] = [*words, *self._pieces.tail, *answer, self._pieces.end]
        return self._known[key]

    def batch(self, pictures: Sequence[Picture]) -> dict[str, Any]:
        """Arguments of the model for `pictures`, with `labels` (rows, length) on the answers.

        `labels` at position i is the token that position i must predict (already shifted).
        """
        rows = [[self.tokens(q) for q in picture.questions] for picture in pictures]
        n_front = len(self._pieces.front)
        length = n_front + max(sum(map(len, row)) for row in rows)
        n = len(rows)
        ids = torch.full((n, length), self.processor.tokenizer.pad_token_id)
        segment = torch.full((n, length), -1)  # 0 the front, 1.. the questions, -1 padding
        places = torch.zeros((3, n, length), dtype=torch.long)
        labels = torch.full((n, length), IGNORED)
        ids[:, :n_front] = torch.tensor(self._pieces.front)
        segment[:, :n_front] = 0
        places[:, :, :n_front] = self._front[:, None]
        after = int(self._front[0, -1]) + 1
        for i, row in enumerate(rows):
            at = n_front
            for k, tokens in enumerate(row, start=1):
                stop = at + len(tokens)
                ids[i, at:stop] = torch.tensor(tokens)
                segment[i, at:stop] = k
                places[:, i, at:stop] = torch.arange(after, after + len(tokens))
                labels[i, stop - 3 : stop - 1] = ids[i, stop - 2 : stop]
                at = stop
        return {
            "input_ids": ids,
            "position_ids": places,
            "attention_mask": {"full_attention": visible(segment)},
            "labels": labels,
            **self.pixels(pictures),
        }

    def samples(self, pictures: Sequence[Picture]) -> list[dict[str, torch.Tensor]]:
        """Unpacked training samples of pictures with one question each, for `harness.tune`.

        Per sample: `input_ids`, `labels`, `mm_token_type_ids` (length,), `pixel_values`
        (patches, values) and `image_grid_thw` (1, 3).
        """
        pixels = self.pixels(pictures)["pixel_values"].view(len(pictures), GRID * GRID, -1)
        front = self._pieces.front
        samples = []
        for picture, values in zip(pictures, pixels, strict=True):
            (question,) = picture.questions
            ids = torch.tensor([*front, *self.tokens(question)])
            labels = torch.full_like(ids, IGNORED)
            labels[-2:] = ids[-2:]
            is_image = ids == self.processor.image_token_id
            samples.append(
                {
                    "input_ids": ids,
                    "labels": labels,
                    "mm_token_type_ids": is_image.long(),
                    "pixel_values": values,
                    "image_grid_thw": torch.tensor([[1, GRID, GRID]]),
                }
            )
        return samples

    def pixels(self, pictures: Sequence[Picture]) -> dict[str, torch.Tensor]:
        """`pixel_values` (patches, values) and `image_grid_thw` (pictures, 3)."""
        images = [picture.image for picture in pictures]
        return dict(self.processor.image_processor(images=images, return_tensors="pt"))


def visible(segment: torch.Tensor) -> torch.Tensor:
    """(rows, 1, length, length) True where a position (row) may look at another (column)."""
    length = segment.shape[1]
    earlier = torch.ones((length, length), dtype=torch.bool).tril()
    shared = (segment[:, None, :] == segment[:, :, None]) | (segment[:, None, :] == 0)
    return (earlier & shared)[:, None]


def answers(
    model: Qwen2_5_VLForConditionalGeneration, batch: dict[str, Any]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (answers x 2, vocabulary) and labels (answers x 2) of a packed batch.

    Two positions per question: the answer's word, then the end of the turn.
    """
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    hidden = model.model(**inputs, use_cache=False).last_hidden_state
    carried = batch["labels"] != IGNORED
    return model.lm_head(hidden[carried]), batch["labels"][carried]
