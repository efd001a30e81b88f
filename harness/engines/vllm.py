"""The vLLM engine: one live engine per architecture, the next checkpoint loaded into it.

vLLM never notices by itself that weights changed: cached keys, values and image embeddings of
the old ones would be served. So each swap is reload, both cache resets, then a canary: two fixed
prompts whose log-probabilities must differ from the previous checkpoint's and be the same
whenever a checkpoint comes round again. A canary that fails costs a fresh start, never a wrong
score. Names and shapes are compared before a reload, because a failed one leaves a broken engine.
"""

from __future__ import annotations

import gc
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

# Read by vLLM when it is imported. Its log goes to stdout otherwise, where results are printed.
os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
# Where there is Triton (GPUs) vLLM would take its second model runner, whose logits processors
# are others: token classes and probes are read by one of the first's.
os.environ.setdefault("VLLM_USE_V2_MODEL_RUNNER", "0")

import torch

if not torch.cuda.is_available():
    # A second process would compete for the same cores, and take as long again to start.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")

from vllm import LLM, SamplingParams, envs
from vllm.engine.arg_utils import EngineArgs
from vllm.lora.request import LoRARequest
from vllm.triton_utils import HAS_TRITON

from harness.checkpoints import (
    architecture,
    processor_fingerprint,
    read_config,
    tensor_index,
)
from harness.engines.decoding import answer_of
from harness.engines.layouts import served_name
from harness.engines.options import VLLMOptions
from harness.engines.positions import with_reading
from harness.engines.prompts import Prompter, refuse_long
from harness.engines.vllm_asks import (
    CANARIES,
    CANARY_TOKENS,
    Ask,
    ChoiceValue,
    by_picture,
    choice_asks,
    choice_values,
    greedy_ask,
)
from harness.engines.vllm_checkpoints import (
    Weights,
    checked_shapes,
    complete_folder,
    lora_rank,
    refuse_differences,
)
from harness.engines.vllm_features import connector, vision_digest
from harness.engines.vllm_inputs import REFUSALS, EngineInputs
from harness.engines.vllm_reading import Extension, Masses
from harness.engines.vllm_worker import STREAMED
from harness.errors import CheckpointError, SampleError, UserError, first_line
from harness.types import Checkpoint, Prediction, Request

# Log-probabilities of one prompt on one engine repeat to far better than this, and two
# checkpoints that were trained apart differ by far more.
CANARY_TOLERANCE = 1e-3
NO_PROBES = (
    "vLLM's distributions cannot be read on its second model runner, nor while it speculates; "
    "unset VLLM_USE_V2_MODEL_RUNNER, drop engine.speculative_config, or probe with --engine hf"
)

Canary = tuple[tuple[int, float], ...]


def engine_arguments() -> tuple[str, ...]:
    """The names of vLLM's own engine options."""
    return tuple(entry.name for entry in fields(EngineArgs))


@dataclass(frozen=True, slots=True)
class _Kind:
    """What one engine start is bound to."""

    architecture: str
    processor: str
    lora_rank: int


class VLLMEngine:
    """Greedy answers and choice log-likelihoods from one live vLLM engine."""

    def __init__(self, options: VLLMOptions, identity: Mapping[str, str]):
        self.identity = identity
        self.starts = 0
        """Engines started; 1 for a whole study of one architecture."""
        self.cold_starts: list[str] = []
        """Why an engine was started again: one line each."""
        self.preprocessed = 0
        """Picture sets that were decoded and sent; the others came from vLLM's cache."""
        self._options = options
        self._llm: LLM | None = None
        self._kind: _Kind | None = None
        self._longest = 0
        self._checked = False
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._weights: Weights | None = None
        self._canaries: dict[Weights, Canary] = {}
        self._scopes: dict[Weights, str] = {}
        self._scope = ""
        self._prompter: Prompter | None = None
        self._lora: LoRARequest | None = None
        self._lora_ids: dict[str, int] = {}
        self._inputs: EngineInputs | None = None
        self._serial = 0
        self._measures = False

    @property
    def counts(self) -> Mapping[str, int]:
        """`starts`, `preprocessed` and `encoded` (pictures through the vision tower) so far.

        A fresh start begins to count `encoded` again; the canary's picture is among them.
        """
        encoded = 0
        if self._llm is not None:
            keywords = {"scope": self._scope}
            encoded = max(self._llm.collective_rpc("forgeteval_features", kwargs=keywords))
        return {"starts": self.starts, "preprocessed": self.preprocessed, "encoded": encoded}

    def load(self, checkpoint: Checkpoint) -> None:
        """Make `checkpoint` the one that answers.

        Raises CheckpointError, and then nothing answers until a load succeeds.
        """
        before, self._weights = self._weights, None
        wanted = Weights.of(checkpoint)
        shapes = checked_shapes(checkpoint)
        fingerprint = processor_fingerprint(Path(checkpoint.processor_path))
        if self._prompter is None or self._prompter.fingerprint != fingerprint:
            self._prompter = Prompter(checkpoint)
        # An engine started with room for adapters needs no second start when the first one comes.
        rank = max(int(self._options.arguments.get("max_lora_rank", 0)), lora_rank(checkpoint))
        kind = _Kind(architecture(Path(checkpoint.path)), fingerprint, rank)
        if self._llm is None or not self._serves(kind):
            self._start(checkpoint, wanted, kind)
            self._shapes = shapes
        else:
            refuse_differences(checkpoint.path, self._shapes, shapes)
            self._swap(checkpoint, wanted, before, kind)
        self._lora = self._adapter(checkpoint)
        self._measures = self._tell_classes(self._prompter)
        self._weights = wanted

    def generate(self, requests: Sequence[Request]) -> Iterator[Prediction]:
        """One prediction per request, as they finish; questions on one picture run together."""
        if not self._measures and any(request.probe for request in requests):
            raise UserError("engine", NO_PROBES)
        asks = (
            greedy_ask(request, f"{self._serial}.{place}" if self._measures else "", self._prompter)
            for place, request in enumerate(by_picture(requests))
        )
        for group in self._groups(asks):
            # One call for all that ended in a step: each waits for the engine's next one.
            noted = self._noted([ask for ask, output in group if not isinstance(output, str)])
            for ask, output in group:
                yield self._prediction(ask, output, noted.get(ask.mass))

    def _prediction(self, ask: Ask, output: Any, noted: Any) -> Prediction:
        """vLLM's output, or the reason why there is none, as a prediction."""
        name, decoding = ask.request.sample_id, ask.request.decoding
        if isinstance(output, str):
            return Prediction(sample_id=name, status="failed", reason=output)
        answer, length = output.outputs[0], len(output.prompt_token_ids)
        try:
            refuse_long(length, decoding, self._longest)
        except SampleError as error:
            return Prediction(sample_id=name, status="failed", reason=str(error))
        tokenizer = self._prompter.tokenizer if self._prompter else None
        tokens = list(answer.token_ids)
        # Not vLLM's own text: that lacks a last character that was cut off in its middle.
        text, _, n_tokens = answer_of(
            tokens, (), decoding, tokenizer, specials=ask.request.verbatim
        )
        found = Prediction(
            sample_id=name,
            text=text,
            finish_reason=str(answer.finish_reason),
            n_prompt_tokens=length,
            n_tokens=n_tokens,
        )
        if ask.request.probe is None:
            return replace(found, class_mass=noted or None)
        return with_reading(found, ask.request, tokens, noted or [])

    def log_likelihood(self, requests: Sequence[Request]) -> Iterator[Prediction]:
        """`choice_scores` (nats, one per choice) for each request; a request needs choices."""
        if self._prompter is None:
            raise RuntimeError("no checkpoint is loaded: call load() first")
        scores: dict[int, dict[int, ChoiceValue]] = {}
        closed: set[int] = set()
        for ask, output in self._stream(choice_asks(by_picture(requests), self._prompter)):
            name, key = ask.request.sample_id, id(ask.request)
            if key in closed:
                continue
            if isinstance(output, str):
                closed.add(key)
                yield Prediction(sample_id=name, status="failed", reason=output)
                continue
            found = scores.setdefault(key, {})
            found.update(choice_values(ask, output))
            if len(found) == len(ask.request.choices):
                closed.add(key)
                values = [value for _, value in sorted(scores.pop(key).items())]
                greedy = tuple(best for _, best in values) if ask.request.verbatim else None
                yield Prediction(
                    sample_id=name,
                    n_prompt_tokens=len(output.prompt_token_ids) - len(ask.more),
                    choice_scores=tuple(score for score, _ in values),
                    choice_greedy=greedy,
                )

    def close(self) -> None:
        """Stop the engine; it may be loaded again."""
        if self._llm is not None:
            self._llm.llm_engine.engine_core.shutdown()
            self._llm = None
        self._weights = None
        self._inputs = None
        self._lora_ids.clear()

    def _serves(self, kind: _Kind) -> bool:
        """Whether the live engine can take this kind of checkpoint without a new start."""
        live = self._kind
        return (
            live is not None
            and live.architecture == kind.architecture
            and live.processor == kind.processor
            and (live.lora_rank >= kind.lora_rank)
        )

    def _start(self, checkpoint: Checkpoint, wanted: Weights, kind: _Kind) -> None:
        """A new engine that holds `wanted`, and its canary."""
        self.close()
        gc.collect()  # the engine before this one
        folder = Path(checkpoint.path)
        names = list(tensor_index(folder))
        # What vLLM cannot read by itself is streamed into it.
        streamed = bool(wanted.shares) or any(served_name(name) != name for name in names)
        with TemporaryDirectory(prefix="forgeteval-") as temporary:
            served = complete_folder(checkpoint, Path(temporary))
            arguments = {
                "model": str(served),
                "trust_remote_code": checkpoint.trust_remote_code,
                "load_format": "safetensors",
                **_defaults(folder, self._options),
                **self._options.arguments,
            }
            if streamed:
                given = {"folders": list(wanted.folders), "shares": list(wanted.shares)}
                arguments.update(load_format=STREAMED, model_loader_extra_config=given)
            if kind.lora_rank:
                arguments.update(enable_lora=True, max_lora_rank=kind.lora_rank)
            # Where it runs eagerly, vLLM compiles its helpers all the same: seconds, for what is
            # hardly used. The stance holds for the process, so it is said for every engine.
            eager = bool(arguments.get("enforce_eager"))
            torch.compiler.set_stance("force_eager" if eager else "default")
            try:
                self._llm = LLM(**arguments)
                self._serve_features(wanted)
            except (*REFUSALS, OSError, ImportError) as error:
                self.close()
                raise CheckpointError(
                    str(folder), f"vLLM cannot serve it: {first_line(error)}"
                ) from None
        self.starts += 1
        self._kind = kind
        self._longest = int(self._llm.model_config.max_model_len)
        assert self._prompter is not None
        self._inputs = EngineInputs(self._llm, self._prompter)
        canary = self._canary()
        known = self._canaries.setdefault(wanted, canary)
        if not _alike(known, canary):
            text = "a fresh vLLM engine answers otherwise than the one before it on equal weights"
            raise CheckpointError(str(folder), text)

    def _swap(
        self, checkpoint: Checkpoint, wanted: Weights, before: Weights | None, kind: _Kind
    ) -> None:
        """Load `wanted` into the live engine and prove it; a fresh start where the proof fails."""
        if wanted == before:
            return
        doubt = ""
        try:
            self._reload(wanted)
            canary = self._canary()
        except (*REFUSALS, OSError) as error:
            # The engine may hang after a failed reload: it is not asked again.
            doubt = f"the reload failed: {first_line(error)}"
        else:
            known = self._canaries.get(wanted)
            if known is not None and not _alike(known, canary):
                doubt = "it answers otherwise than when it was loaded before"
            elif before is not None and canary == self._canaries.get(before):
                doubt = "it answers exactly like the checkpoint before it"
            elif self._options.check_cold and not self._checked:
                doubt = "check_cold is set"
                self._canaries.setdefault(wanted, canary)
            self._checked = True
        if not doubt:
            self._canaries.setdefault(wanted, canary)
            return
        self.cold_starts.append(f"{Path(checkpoint.path).name}: {doubt}")
        self._start(checkpoint, wanted, kind)

    def _tell_classes(self, prompter: Prompter) -> bool:
        """Say which tokens are in which class; False where the worker reads no distributions."""
        if not _takes_processors(self._options) or self._llm is None:
            return False
        classes = prompter.classes(self._options.token_classes)
        self._llm.collective_rpc("forgeteval_classes", kwargs={"classes": classes})
        return True

    def _noted(self, asks: Sequence[Ask]) -> dict[str, Any]:
        """What the worker noted of these asks by name: class masses, or positions of a probe."""
        names = [ask.mass for ask in asks if ask.mass]
        if not names or self._llm is None:
            return {}
        what = "positions" if asks[0].request.probe else "masses"
        found = self._llm.collective_rpc(f"forgeteval_{what}", kwargs={"names": names})
        return {name: value for worker in found for name, value in worker.items()}

    def _reload(self, wanted: Weights) -> None:
        assert self._llm is not None
        arguments = {"folders": list(wanted.folders), "shares": list(wanted.shares)}
        self._llm.collective_rpc("forgeteval_reload", kwargs=arguments)
        self._serve_features(wanted)
        # Both, or old keys and values meet new weights, or the engine dies on a missing embedding.
        self._llm.reset_prefix_cache()
        self._llm.llm_engine.reset_encoder_cache()

    def _serve_features(self, wanted: Weights) -> None:
        """Image features are those of these vision weights from now on."""
        assert self._llm is not None
        if self._llm.llm_engine.vllm_config.ec_transfer_config is None:
            return
        if wanted not in self._scopes:
            self._scopes[wanted] = vision_digest(wanted.folders, wanted.shares)
        self._scope = self._scopes[wanted]
        self._llm.collective_rpc("forgeteval_features", kwargs={"scope": self._scope})

    def _canary(self) -> Canary:
        """Tokens and log-probabilities of two fixed prompts, one with a picture."""
        # One listed token brings the chosen one along; `logprobs=0` would compile a kernel first.
        params = SamplingParams(temperature=0, max_tokens=CANARY_TOKENS, logprob_token_ids=[0])
        asks = [Ask(request, params) for request in CANARIES]
        found: dict[str, list[tuple[int, float]]] = {}
        for ask, output in self._stream(iter(asks), count=False):
            if isinstance(output, str):
                raise RuntimeError(f"the canary failed: {output}")
            answer = output.outputs[0]
            found[ask.request.sample_id] = [
                (token, float(table[token].logprob))
                for token, table in zip(answer.token_ids, answer.logprobs, strict=True)
            ]
        return tuple(pair for name in sorted(found) for pair in found[name])

    def _stream(self, asks: Iterator[Ask], *, count: bool = True) -> Iterator[tuple[Ask, Any]]:
        """(ask, vLLM's output, or the reason why there is none) as they finish."""
        for group in self._groups(asks, count=count):
            yield from group

    def _groups(
        self, asks: Iterator[Ask], *, count: bool = True
    ) -> Iterator[list[tuple[Ask, Any]]]:
        """What `_stream` yields, by steps of the engine.

        At most `window` asks are in the engine, so that pictures waiting for their turn do not
        fill the memory.
        """
        if self._llm is None or (count and self._weights is None):
            raise RuntimeError("no checkpoint is loaded: call load() first")
        engine = self._llm.llm_engine
        flying: dict[str, Ask] = {}
        try:
            while True:
                for ask in itertools.islice(asks, self._options.window - len(flying)):
                    try:
                        flying[self._send(ask, count)] = ask
                    except SampleError as error:
                        yield [(ask, str(error))]
                if not flying:
                    return
                ended = [output for output in engine.step() if output.finished]
                if ended:
                    yield [(flying.pop(output.request_id), output) for output in ended]
        finally:
            if flying:
                engine.abort_request(list(flying))

    def _send(self, ask: Ask, count: bool) -> str:
        """Hand one ask to the engine; its id. Raises SampleError when vLLM refuses it."""
        assert self._llm is not None and self._inputs is not None
        if ask.refusal:
            raise SampleError(ask.refusal)
        before = self._inputs.preprocessed
        prompt = self._inputs.of(ask)
        self.preprocessed += (self._inputs.preprocessed - before) * count
        self._serial += 1
        name = f"{self._serial}"
        try:
            self._llm.llm_engine.add_request(
                name, prompt, ask.params, lora_request=self._lora if count else None
            )
        except REFUSALS as error:
            raise SampleError(f"vLLM refused it: {first_line(error)}") from None
        return name

    def _adapter(self, checkpoint: Checkpoint) -> LoRARequest | None:
        if not checkpoint.adapter:
            return None
        # The name is part of vLLM's cache keys: it says the content, not the place.
        name = checkpoint.fingerprint
        number = self._lora_ids.setdefault(name, len(self._lora_ids) + 1)
        return LoRARequest(name, number, checkpoint.adapter)


# Enough for a window of short multimodal requests on models that run on CPUs at all.
CPU_CACHE_BYTES = 2 << 30


def _defaults(folder: Path, options: VLLMOptions) -> dict[str, Any]:
    """vLLM's options unless the manifest says otherwise."""
    config = read_config(folder)
    limits = {"image": 1}
    if "video_token_id" in config or "video_token_index" in config:
        limits["video"] = 0
    found: dict[str, Any] = {
        "dtype": options.dtype,
        "seed": 0,
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
        "limit_mm_per_prompt": limits,
        "worker_extension_cls": f"{Extension.__module__}.{Extension.__qualname__}",
    }
    if _takes_processors(options):
        found["logits_processors"] = [Masses]
    if features := connector(options.arguments, options.features_gb):
        found["ec_transfer_config"] = features
    if not torch.cuda.is_available():
        # Compiling for a CPU costs minutes and wins nothing that a sweep would notice.
        found["enforce_eager"] = True
        if "gpu_memory_utilization" not in options.arguments:
            # vLLM would take 92 % of the machine's memory and refuse to start where it is used.
            found["kv_cache_memory_bytes"] = CPU_CACHE_BYTES
    return found


def _takes_processors(options: VLLMOptions) -> bool:
    """Whether distributions can be read: by the first model runner, without speculation.

    vLLM is asked for its first runner where the environment does not say otherwise; the second
    takes other processors.
    """
    second = envs.VLLM_USE_V2_MODEL_RUNNER
    speculates = bool(options.arguments.get("speculative_config"))
    return not (speculates or (HAS_TRITON if second is None else second))


def _alike(one: Canary, other: Canary) -> bool:
    return len(one) == len(other) and all(
        token == token_2 and abs(value - value_2) < CANARY_TOLERANCE
        for (token, value), (token_2, value_2) in zip(one, other, strict=True)
    )
