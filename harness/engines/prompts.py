"""Rendered prompts: a request as the exact text and tokens that a checkpoint's template makes.

Both engines take their prompts from here, so that they can only differ in the numbers they
compute. A processor is known by the content of its files: stages that carry copies of the base's
tokenizer share one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoProcessor

from harness.checkpoints import processor_fingerprint
from harness.errors import CheckpointError, SampleError
from harness.token_classes import TokenClasses, token_classes, user_classes
from harness.types import Checkpoint, Decoding, Request


class Prompter:
    """The chat template and tokenizer of one processor folder."""

    def __init__(self, checkpoint: Checkpoint):
        folder = checkpoint.processor_path
        try:
            self.processor: Any = AutoProcessor.from_pretrained(
                folder, trust_remote_code=checkpoint.trust_remote_code
            )
        except (OSError, ValueError, ImportError, KeyError, TypeError) as error:
            raise CheckpointError(
                folder, f"the processor cannot be read: {first_line(error)}"
            ) from None
        if not hasattr(self.processor, "image_processor"):
            cure = "copy the base's processor files (preprocessor_config.json, ...) into the folder"
            raise CheckpointError(folder, f"there is no image processor; {cure}")
        self.fingerprint = processor_fingerprint(Path(folder))
        self.tokenizer: Any = self.processor.tokenizer
        self._templated = bool(getattr(self.processor, "chat_template", None))
        self._image_mark = getattr(self.processor, "image_token", None)
        if not self._templated and not self._image_mark:
            cure = "copy the base's chat_template.jinja into the folder"
            raise CheckpointError(folder, f"there is no chat template; {cure}")
        marks = (self._image_mark, getattr(self.processor, "video_token", None))
        self._marks = tuple(mark for mark in marks if isinstance(mark, str) and mark)

    def classes(self, own: Mapping[str, Sequence[str]]) -> TokenClasses:
        """Token ids of the standard classes and of `own` ones (name -> words).

        Empty for a tokenizer without a vocabulary that can be read.
        """
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:
            return {}
        found = token_classes(json.loads(backend.to_str()), user_classes(own))
        return {name: ids for name, ids in found.items() if ids}

    def text(self, request: Request) -> str:
        """The prompt as the model will read it, image marks not yet repeated.

        Raises SampleError when the question itself contains the model's image mark: the picture
        would be put in the wrong place.
        """
        for part in request.parts:
            if isinstance(part, str):
                for mark in self._marks:
                    if mark in part:
                        raise SampleError(f"the question contains the model's own mark {mark}")
        if not self._templated:
            return "".join(
                part if isinstance(part, str) else f"{self._image_mark}\n" for part in request.parts
            )
        content = [
            {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"}
            for part in request.parts
        ]
        rendered = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        return str(rendered)

    def adds_specials(self, text: str) -> bool:
        """Whether the tokenizer must add its start token: not if the template wrote it already."""
        start = self.tokenizer.bos_token
        return not (start and text.startswith(start))

    def tokens(self, text: str) -> list[int]:
        """Token ids of a rendered prompt, one per image mark."""
        ids = self.tokenizer(text, add_special_tokens=self.adds_specials(text))["input_ids"]
        return [int(token) for token in ids]

    def continuation(self, text: str) -> list[int]:
        """Token ids of a choice that follows a prompt. Raises SampleError for no tokens."""
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if not ids:
            raise SampleError("a choice has no tokens")
        return [int(token) for token in ids]


def picture_key(request: Request) -> str:
    """Identity of a request's pictures in prompt order; "" for none.

    Several pictures are one unit: models cut tiles by how many pictures a prompt has.
    """
    return "+".join(request.images[part].sha256 for part in request.parts if isinstance(part, int))


def refuse_long(length: int, decoding: Decoding, limit: int | None) -> None:
    """Raises SampleError when a prompt and its longest answer do not fit into `limit` tokens."""
    if limit and length + decoding.max_new_tokens > limit:
        wanted = f"{length} tokens and {decoding.max_new_tokens} new ones"
        raise SampleError(f"the prompt has {wanted}, the model takes {limit}")


def first_line(error: BaseException) -> str:
    """The first line of a message, at most 300 characters; the error's type if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
