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

from jinja2 import TemplateError
from transformers import AutoProcessor

from harness.checkpoints import processor_fingerprint, read_config
from harness.errors import CheckpointError, SampleError, first_line
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
        self._verbatim_mark = _configured_mark(checkpoint.path, self.tokenizer) or self._image_mark
        marks = (
            self._image_mark,
            self._verbatim_mark,
            getattr(self.processor, "video_token", None),
        )
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
        if request.verbatim:
            return self._verbatim(request)[0]
        if not self._templated:
            return "".join(
                part if isinstance(part, str) else f"{self._image_mark}\n" for part in request.parts
            )
        rendered = self.processor.apply_chat_template(
            [{"role": "user", "content": _content(request.parts)}],
            add_generation_prompt=True,
            tokenize=False,
        )
        return str(rendered)

    def _verbatim(self, request: Request) -> tuple[str, str]:
        """(prompt, white space at its end that choices take over) of a verbatim request.

        A choice is tokenized with the space before it: `" Paris"` is one word, `" "` and `"Paris"`
        are not what a model was trained on.
        """
        text = self._chat(request) if request.turns else _marked(request.parts, self._verbatim_mark)
        kept = text.rstrip() if request.choices else text
        return kept, text[len(kept) :]

    def _chat(self, request: Request) -> str:
        """The turns of a chat under the model's template."""
        if not self._templated:
            raise SampleError("the checkpoint has no chat template; set apply_chat_template: false")
        messages: list[dict[str, Any]] = []
        start = 0
        for role, n in request.turns:
            messages.append({"role": role, "content": _content(request.parts[start : start + n])})
            start += n
        goes_on = request.turns[-1][0] == "assistant"
        try:
            return str(
                self.processor.apply_chat_template(
                    messages,
                    add_generation_prompt=not goes_on,
                    continue_final_message=goes_on,
                    tokenize=False,
                )
            )
        except (TemplateError, ValueError) as error:
            raise SampleError(f"the chat template refuses it: {first_line(error)}") from None

    def adds_specials(self, text: str) -> bool:
        """Whether the tokenizer must add its start token: not if the template wrote it already."""
        start = self.tokenizer.bos_token
        return not (start and text.startswith(start))

    def tokens(self, text: str) -> list[int]:
        """Token ids of a rendered prompt, one per image mark."""
        ids = self.tokenizer(text, add_special_tokens=self.adds_specials(text))["input_ids"]
        return [int(token) for token in ids]

    def prompt_tokens(self, request: Request) -> list[int]:
        """Token ids of a request's prompt, one per image mark. Raises SampleError for no tokens.

        An empty prompt before choices is the start token (the end token where there is none).
        """
        text = self.text(request)
        if not request.verbatim:
            return self.tokens(text)
        if _starts_empty(request):
            return [self._first_token]
        # With pictures lm-eval leaves the start token to the processor, written twice or not.
        found = self._encoded(text) if picture_key(request) else self.tokens(text)
        if not found:
            raise SampleError("the prompt is empty")
        return found

    def choice_tokens(self, request: Request) -> list[tuple[int, ...]]:
        """Token ids of each choice as they follow the prompt. Raises SampleError for no tokens."""
        if not request.verbatim:
            return [tuple(self.continuation(text)) for text in request.choices]
        if _starts_empty(request):
            alone = [self.continuation(text) for text in request.choices]
            found = [ids[1:] if ids[0] == self._first_token else ids for ids in alone]
        else:
            text, space = self._verbatim(request)
            known = len(self.tokens(text))
            found = [self.tokens(text + space + choice)[known:] for choice in request.choices]
        if not all(found):
            raise SampleError("a choice has no tokens of its own after this prompt")
        return [tuple(ids) for ids in found]

    def ends(self, request: Request) -> list[int]:
        """Tokens that end a verbatim request's answer beside the checkpoint's own.

        lm-eval looks for stop strings in text with special tokens, and for the end token's name.
        """
        if not request.verbatim:
            return []
        named = self.tokenizer.get_added_vocab()
        found = [named[stop] for stop in request.decoding.stop if stop in named]
        end = self.tokenizer.eos_token_id
        return sorted({int(token) for token in [*found, *([] if end is None else [end])]})

    @property
    def _first_token(self) -> int:
        """What stands before a text that has nothing before it."""
        start, end = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        if start is None and end is None:
            raise SampleError("the prompt is empty and the tokenizer has no start or end token")
        return int(end if start is None else start)

    def _encoded(self, text: str) -> list[int]:
        return [int(token) for token in self.tokenizer(text)["input_ids"]]

    def continuation(self, text: str) -> list[int]:
        """Token ids of a choice that follows a prompt. Raises SampleError for no tokens."""
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if not ids:
            raise SampleError("a choice has no tokens")
        return [int(token) for token in ids]


def _content(parts: Sequence[str | int]) -> list[dict[str, str]]:
    """Parts as the content of a chat message."""
    return [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"}
        for part in parts
    ]


def _marked(parts: Sequence[str | int], mark: str | None) -> str:
    """Parts as one text, `mark` in the place of each picture. Raises SampleError without one."""
    if mark is None and any(isinstance(part, int) for part in parts):
        raise SampleError("the model's configuration names no image token")
    return "".join(part if isinstance(part, str) else str(mark) for part in parts)


def _configured_mark(folder: str, tokenizer: Any) -> str | None:
    """The image token that the model's configuration names, as text."""
    config = read_config(Path(folder))
    token = config.get("image_token_id") or config.get("image_token_index")
    return str(tokenizer.decode([token])) if isinstance(token, int) else None


def _starts_empty(request: Request) -> bool:
    """Whether choices are compared after nothing at all."""
    return (
        bool(request.choices)
        and not request.turns
        and not any(isinstance(part, int) or part for part in request.parts)
    )


def prompt_key(request: Request) -> tuple[object, ...]:
    """What decides a request's prompt, pictures included: equal keys, equal tokens."""
    stripped = request.verbatim and bool(request.choices)
    return request.parts, picture_key(request), request.verbatim, request.turns, stripped


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
