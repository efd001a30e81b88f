"""Prompts as vLLM's engine takes them: tokens and processed pictures, made once per study.

vLLM's own cache saves the image processor's work for a known picture; what remains took a quarter
of the time of short questions, and depends on no weights either.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from vllm import LLM, envs
from vllm.exceptions import VLLMClientError
from vllm.renderers.inputs.preprocess import parse_model_prompt

from harness.engines.prompts import Prompter, prompt_key
from harness.engines.vllm_asks import Ask
from harness.errors import SampleError, first_line

# What vLLM raises for a request, or a start, that it cannot serve.
REFUSALS = (VLLMClientError, ValueError, RuntimeError, TypeError, KeyError, IndexError)


class EngineInputs:
    """Asks -> vLLM's engine inputs, for one processor and one live engine."""

    def __init__(self, llm: LLM, prompter: Prompter):
        self.preprocessed = 0
        """Picture sets that were decoded; the others came from a cache."""
        self._llm = llm
        self._prompter = prompter
        self._longest = int(llm.model_config.max_model_len)
        self._tokens: dict[tuple[object, ...], tuple[int, ...]] = {}
        self._sent: set[str] = set()
        self._kept: dict[tuple[object, ...], Mapping[str, Any]] = {}
        self._pictures: set[str] = set()
        # An engine in another process has a cache of its own, which must see what this side's sees.
        alone = not envs.VLLM_ENABLE_V1_MULTIPROCESSING
        # The pictures are those in vLLM's own cache, so they take no room twice.
        shared = llm.model_config.multimodal_config
        self._room = int(shared.mm_processor_cache_gb * 2**30) if shared and alone else 0

    def of(self, ask: Ask) -> Mapping[str, Any]:
        """The engine input of one ask. Raises SampleError when vLLM's processor refuses it."""
        key = (*prompt_key(ask.request), ask.more)
        if key in self._kept:
            return self._kept[key]
        shown = [ask.request.images[part] for part in ask.request.parts if isinstance(part, int)]
        tokens = self._prompt_tokens(ask, bool(shown))
        if not shown:
            return self._rendered({"prompt_token_ids": tokens})
        names = [image.sha256 for image in shown]
        prompt = {"prompt_token_ids": tokens, "multi_modal_uuids": {"image": names}}
        found = self._from_cache(prompt) if self._sent.issuperset(names) else None
        if found is None:
            pictures = [image.decode() for image in shown]
            found = self._rendered({**prompt, "multi_modal_data": {"image": pictures}})
            self._sent.update(names)
            self.preprocessed += 1
        self._keep(key, names, found)
        return found

    def _prompt_tokens(self, ask: Ask, shows: bool) -> list[int]:
        request, key = ask.request, prompt_key(ask.request)
        if key not in self._tokens:
            self._tokens[key] = tuple(self._prompter.prompt_tokens(request))
        tokens = [*self._tokens[key], *ask.more]
        if request.verbatim and not shows:
            # Another program's text is cut as that program cuts it: from the left.
            room = self._longest - (1 if request.choices else request.decoding.max_new_tokens)
            tokens = tokens[-room:] if room > 0 else tokens
        return tokens

    def _from_cache(self, prompt: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """The engine input of known pictures; None where vLLM dropped one from its cache."""
        known = [None] * len(prompt["multi_modal_uuids"]["image"])
        try:
            return self._rendered({**prompt, "multi_modal_data": {"image": known}})
        except SampleError:
            return None

    def _rendered(self, prompt: Mapping[str, Any]) -> Mapping[str, Any]:
        engine = self._llm.llm_engine
        try:
            parsed = parse_model_prompt(engine.model_config, dict(prompt))
            found: Mapping[str, Any] = engine.renderer.render_cmpl([parsed])[0]
        except REFUSALS as error:
            raise SampleError(f"vLLM refused it: {first_line(error)}") from None
        return found

    def _keep(self, key: tuple[object, ...], names: list[str], made: Mapping[str, Any]) -> None:
        """What came first stays: a sweep asks in the same order for every checkpoint."""
        size = 8 * len(made["prompt_token_ids"])
        if not self._pictures.issuperset(names):
            size += sum(_bytes(item) for items in made["mm_kwargs"].values() for item in items)
        if size <= self._room:
            self._room -= size
            self._pictures.update(names)
            self._kept[key] = made


def _bytes(item: Mapping[str, Any]) -> int:
    """Bytes of one processed picture's tensors."""
    values = [field.data for field in item.values()]
    return sum(value.nbytes for value in values if isinstance(value, torch.Tensor))
