"""The transformers engine: any `AutoModelForImageTextToText`, on a CPU, one GPU or Apple's.

One model lives for the whole study. The next checkpoint's tensors are copied into it; token ids,
pixels and (where the vision weights are the same bytes) image features are kept. Answers depend
on the checkpoint and the request alone, never on batch size, order or what ran before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForImageTextToText, GenerationConfig
from transformers.generation import LogitsProcessorList, StoppingCriteriaList

from harness.checkpoints import architecture, processor_fingerprint, tensor_index
from harness.engines.adapters import merge_adapter
from harness.engines.batching import Job, batches, cost
from harness.engines.choices import Question, choice_questions, shortened_left
from harness.engines.decoding import NOT_NUMBERS, FirstMass, NanWatch, StopStrings, answer_of
from harness.engines.features import Features
from harness.engines.inputs import Inputs, Row, collate, join
from harness.engines.layouts import shortened
from harness.engines.options import HFOptions
from harness.engines.positions import ClassIndex, Reader, with_reading
from harness.engines.prompts import Prompter, refuse_long
from harness.engines.rotary import remember_positions
from harness.engines.weights import LiveWeights, NeedsConversionError
from harness.errors import CheckpointError, Problem, SampleError, UserError, first_line
from harness.types import Checkpoint, Prediction, Probe, Request

# Requests prepared before the first batch runs: enough to sort by length, little enough that
# their pixels fit in memory.
WINDOW_ROWS = 1024
WINDOW_BYTES = 2 << 30
OUT_OF_MEMORY = "out of memory with this prompt alone"

Answer = Callable[[list["Job"]], list[Prediction]]
# Log-probability of a choice (nats), and whether greedy decoding would have said it.
ChoiceValue = tuple[float, bool]


@dataclass(slots=True)
class _Live:
    """The model in memory and what belongs to its architecture."""

    architecture: str
    model: Any
    weights: LiveWeights
    features: Features
    swappable: bool

    def write(self, checkpoint: Checkpoint) -> None:
        """Write the checkpoint's tensors (interpolated if it is a blend) into the model.

        Raises CheckpointError before anything is written, and NeedsConversionError.
        """
        folders = [checkpoint.path, *(path for path, _ in checkpoint.blend)]
        plans = [self.weights.plan(Path(folder)) for folder in folders]
        self.weights.copy(plans, [share for _, share in checkpoint.blend])


class HFEngine:
    """Greedy answers and choice log-likelihoods from one live transformers model."""

    def __init__(self, options: HFOptions, identity: Mapping[str, str]):
        # The harness has its own progress display, and every key is checked here.
        transformers.utils.logging.disable_progress_bar()
        transformers.utils.logging.set_verbosity_error()
        self.identity = identity
        self.starts = 0
        """Models built from nothing; 1 for a whole study of one architecture."""
        self._options = options
        if options.threads:
            torch.set_num_threads(options.threads)
        self._dtype: torch.dtype = getattr(torch, options.dtype)
        self._device = torch.device(_device(options.device))
        self._live: _Live | None = None
        self._inputs: dict[str, Inputs] = {}
        self._current: Inputs | None = None
        self._batch_tokens = options.batch_tokens
        self._stops: list[int] = []
        self._classes = ClassIndex({})
        self._known_classes: dict[str, ClassIndex] = {}

    @property
    def counts(self) -> Mapping[str, int]:
        """`starts`, `preprocessed` and `encoded` so far: what the sweep is meant to save."""
        return {
            "starts": self.starts,
            "preprocessed": sum(inputs.preprocessed for inputs in self._inputs.values()),
            "encoded": self._live.features.encoded if self._live else 0,
        }

    def load(self, checkpoint: Checkpoint) -> None:
        """Make `checkpoint` the one that answers.

        Raises CheckpointError, and then nothing answers until a load succeeds: a half-written
        model is never asked.
        """
        self._current = None
        kind = architecture(Path(checkpoint.path))
        live = self._swapped(checkpoint, kind) or self._start(checkpoint, kind)
        if checkpoint.adapter:
            merge_adapter(live.model, Path(checkpoint.adapter))
            # An adapter may bring whole modules: the old ones' tensors are no longer the model's.
            live.weights = LiveWeights(live.model)
        inputs = self._inputs_for(checkpoint)
        self._stops = _stop_tokens(checkpoint, live.model)
        live.features.select(live.weights.vision_hash() + inputs.prompter.fingerprint)
        self._current = inputs

    def generate(self, requests: Sequence[Request]) -> Iterator[Prediction]:
        """One prediction per request, batch by batch as they finish, in any order."""
        yield from self._run(requests, self._generate_batch)

    def log_likelihood(self, requests: Sequence[Request]) -> Iterator[Prediction]:
        """`choice_scores` (nats, one per choice) for each request; a request needs choices."""
        yield from self._run(requests, self._score_batch)

    def close(self) -> None:
        """Drop the model and everything kept; the engine may be loaded again."""
        self._live, self._current = None, None
        self._inputs.clear()

    def _swapped(self, checkpoint: Checkpoint, kind: str) -> _Live | None:
        """The live model with the checkpoint's weights; None where only a fresh one can serve."""
        live = self._live
        if live is None or live.architecture != kind or not live.swappable:
            return None
        try:
            live.write(checkpoint)
        except NeedsConversionError:
            return None
        return live

    def _start(self, checkpoint: Checkpoint, kind: str) -> _Live:
        """A model built from nothing, every tensor accounted for."""
        self._live = None
        folder = Path(checkpoint.path)
        # Headers are checked before the library allocates what they claim.
        tensor_index(folder)
        options: dict[str, Any] = {"dtype": self._dtype, "output_loading_info": True}
        if self._device.type != "cpu":
            options["device_map"] = {"": str(self._device)}
        try:
            model, found = AutoModelForImageTextToText.from_pretrained(
                folder,
                trust_remote_code=checkpoint.trust_remote_code,
                use_safetensors=True,
                **options,
            )
        except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
            text = f"transformers cannot load it: {first_line(error)}"
            raise CheckpointError(str(folder), text) from None
        problems = [
            *(Problem(name, "missing from the checkpoint") for name in found["missing_keys"]),
            *(Problem(name, "the model has no such tensor") for name in found["unexpected_keys"]),
            *(Problem(str(key[0]), "of another shape") for key in found["mismatched_keys"]),
        ]
        if problems:
            raise CheckpointError(str(folder), shortened(problems))
        model.eval()
        remember_positions(model)
        # `generate` would fill in whatever its own configuration leaves open from this one.
        model.generation_config = GenerationConfig()
        self.starts += 1
        live = _Live(
            architecture=kind,
            model=model,
            weights=LiveWeights(model),
            features=Features(model, int(self._options.features_gb * 1e9)),
            swappable=getattr(model.config, "quantization_config", None) is None,
        )
        try:
            live.write(checkpoint)
        except NeedsConversionError as error:
            live.swappable = False
            if checkpoint.blend:
                text = f"cannot be blended: the model stores {error} in another form"
                raise CheckpointError(str(folder), text) from None
        self._live = live
        return live

    def _inputs_for(self, checkpoint: Checkpoint) -> Inputs:
        """The processed inputs of the checkpoint's processor, known by its files' content."""
        fingerprint = processor_fingerprint(Path(checkpoint.processor_path))
        if fingerprint not in self._inputs:
            limit = int(self._options.inputs_gb * 1e9)
            prompter = Prompter(checkpoint)
            self._inputs[fingerprint] = Inputs(prompter, limit)
            classes = prompter.classes(self._options.token_classes)
            self._known_classes[fingerprint] = ClassIndex(classes)
        self._classes = self._known_classes[fingerprint]
        return self._inputs[fingerprint]

    def _run(self, requests: Sequence[Request], answer: Answer) -> Iterator[Prediction]:
        if self._current is None or self._live is None:
            raise RuntimeError("no checkpoint is loaded: call load() first")
        current, features = self._current, self._live.features
        limit = self._longest
        jobs: list[Job] = []
        held = 0

        def needs_pixels(picture: str) -> bool:
            return not (features.supported and features.has(picture))

        for request in requests:
            try:
                row = _fitting(current.row(request, needs_pixels), request, limit)
            except SampleError as error:
                yield _failed(request, str(error))
                continue
            jobs.append(Job(request, row))
            held += sum(t.numel() * t.element_size() for t in (row.pixels or {}).values())
            if len(jobs) >= WINDOW_ROWS or held >= WINDOW_BYTES:
                yield from self._drain(jobs, answer)
                jobs, held = [], 0
        yield from self._drain(jobs, answer)

    def _drain(self, jobs: list[Job], answer: Answer) -> Iterator[Prediction]:
        for batch in batches(jobs, self._options.batch_size, lambda: self._batch_tokens):
            yield from self._answer(batch, answer)

    def _answer(self, batch: list[Job], answer: Answer) -> list[Prediction]:
        """The batch's predictions; halved when memory runs out, and the budget with it.

        Halved as well when the model refuses the batch, so that one impossible prompt fails alone.
        A broken device is no prompt's fault and is raised.
        """
        try:
            with torch.inference_mode():
                return answer(batch)
        except torch.AcceleratorError:
            raise
        except (RuntimeError, ValueError, IndexError) as error:
            full = _out_of_memory(error)
            reason = OUT_OF_MEMORY if full else f"the model refused it: {first_line(error)}"
        # Outside the handler, so that the failed batch's tensors are free by now.
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        if len(batch) == 1:
            return [_failed(batch[0].request, reason)]
        middle = len(batch) // 2
        if full:
            self._batch_tokens = max(1, min(self._batch_tokens, cost(batch) // 2))
        return self._answer(batch[:middle], answer) + self._answer(batch[middle:], answer)

    def _generate_batch(self, batch: list[Job]) -> list[Prediction]:
        live, current = self._live, self._current
        assert live is not None and current is not None
        tokenizer = current.prompter.tokenizer
        decoding = batch[0].request.decoding
        verbatim = batch[0].request.verbatim
        ends = [*self._stops, *current.prompter.ends(batch[0].request)]
        inputs = self._model_inputs([job.row for job in batch], left=True)
        width = inputs["input_ids"].shape[1]
        watch, reader = NanWatch(), self._reader(batch)
        # Forced answers end where they are told to, not where this checkpoint would end them.
        forced = max(len(job.request.probe.tokens) if job.request.probe else 0 for job in batch)
        stop = () if forced else decoding.stop
        stops = [StopStrings(tokenizer, stop, width, specials=verbatim)] if stop else []
        output = live.model.generate(
            **inputs,
            generation_config=self._greedy(
                forced or decoding.max_new_tokens, () if forced else ends
            ),
            logits_processor=LogitsProcessorList([watch, reader]),
            stopping_criteria=StoppingCriteriaList(stops),
        )
        new = output[:, width:].tolist()
        predictions = []
        for place, (job, tokens, bad) in enumerate(
            zip(batch, new, watch.bad.tolist(), strict=True)
        ):
            if bad:
                predictions.append(_failed(job.request, NOT_NUMBERS))
                continue
            text, reason, n_tokens = answer_of(tokens, ends, decoding, tokenizer, specials=verbatim)
            found = Prediction(
                sample_id=job.request.sample_id,
                text=text,
                finish_reason=reason,
                n_prompt_tokens=job.row.length,
                n_tokens=n_tokens,
            )
            if isinstance(reader, FirstMass):
                found = replace(found, class_mass=reader.masses[place] or None)
            else:
                found = with_reading(found, job.request, tokens, reader.positions[place])
            predictions.append(found)
        return predictions

    def _reader(self, batch: Sequence[Job]) -> FirstMass | Reader:
        """What reads the scores of a batch: where answers begin, or all along for a probe."""
        probes = [job.request.probe for job in batch]
        if not any(probes):
            return FirstMass(self._classes)
        ends = self._stops or [self._pad()]
        return Reader([probe or Probe() for probe in probes], self._classes, ends)

    def _score_batch(self, batch: list[Job]) -> list[Prediction]:
        current = self._current
        assert current is not None
        questions: dict[int, list[Question]] = {}
        predictions: dict[int, Prediction] = {}
        for place, job in enumerate(batch):
            try:
                limit = self._longest if job.request.verbatim and not job.row.picture else None
                questions[place] = choice_questions(job.row, job.request, current.prompter, limit)
            except SampleError as error:
                predictions[place] = _failed(job.request, str(error))
        flat = [question for found in questions.values() for question in found]
        answers = iter(self._log_probabilities(flat) if flat else ())
        for place, found in questions.items():
            values: dict[int, ChoiceValue] = {}
            for _ in found:
                values.update(next(answers))
            predictions[place] = _scored(batch[place], values)
        return [predictions[place] for place in range(len(batch))]

    def _log_probabilities(self, questions: list[Question]) -> list[dict[int, ChoiceValue]]:
        """For each question, choice -> summed log-probability of its tokens (nats), and whether
        each of them is the likeliest.

        Padded on the right: a causal model does not see what follows, and positions count from
        the prompt's start in every architecture.
        """
        assert self._live is not None
        inputs = self._model_inputs([question.row for question in questions], left=False)
        needed = sorted({place for question in questions for place in question.places})
        keep = torch.tensor(needed, device=self._device)
        logits = self._live.model(**inputs, logits_to_keep=keep, use_cache=False).logits
        at = {place: index for index, place in enumerate(needed)}
        found = []
        for index, question in enumerate(questions):
            lines = logits[index, [at[place] for place in question.places]]
            table = lines.float().log_softmax(-1).cpu()
            best = tuple(table.argmax(-1).tolist())
            values = {}
            for choice, tokens in question.choices.items():
                total = float(sum(table[offset, token] for offset, token in enumerate(tokens)))
                values[choice] = (total, best == tokens)
            found.append(values)
        return found

    def _model_inputs(self, rows: list[Row], *, left: bool) -> dict[str, Any]:
        """Everything `forward` needs for these rows, on the device."""
        live, current = self._live, self._current
        assert live is not None and current is not None
        inputs: dict[str, Any] = collate(rows, self._pad(), left=left)
        with_pictures = [row for row in rows if row.picture]
        if with_pictures:
            inputs.update(join([row.side for row in with_pictures]))
        inputs = {name: tensor.to(self._device) for name, tensor in inputs.items()}
        features = None
        if with_pictures and live.features.supported:
            features = live.features.of(with_pictures, self._device, self._dtype)
        if features is not None:
            inputs["mm_encoder_outputs"] = features
        elif with_pictures:
            pixels = join([row.pixels or {} for row in with_pictures])
            inputs.update({k: v.to(self._device, self._dtype) for k, v in pixels.items()})
        return inputs

    @property
    def _longest(self) -> int | None:
        """Tokens that the live model takes, prompt and answer together."""
        assert self._live is not None
        text = self._live.model.config.get_text_config()
        return getattr(text, "max_position_embeddings", None)

    def _greedy(self, max_new_tokens: int, ends: Sequence[int]) -> GenerationConfig:
        return GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=list(ends) or None,
            pad_token_id=self._pad(),
        )

    def _pad(self) -> int:
        assert self._current is not None
        pad = self._current.prompter.tokenizer.pad_token_id
        return int(pad) if pad is not None else (self._stops or [0])[0]


def _device(wanted: str) -> str:
    if wanted != "auto":
        try:
            torch.empty(0, device=wanted)
        except (RuntimeError, AssertionError) as error:
            line = str(error).splitlines()[0]
            raise UserError("engine.device", f"{wanted!r} cannot be used here: {line}") from None
        return wanted
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _stop_tokens(checkpoint: Checkpoint, model: Any) -> list[int]:
    """The tokens that end an answer: the folder's generation config, else its model config."""
    try:
        found = GenerationConfig.from_pretrained(checkpoint.path).eos_token_id
    except (OSError, ValueError):
        found = None
    if found is None:
        found = model.config.get_text_config().eos_token_id
    return [found] if isinstance(found, int) else list(found or [])


def _failed(request: Request, reason: str) -> Prediction:
    return Prediction(sample_id=request.sample_id, status="failed", reason=reason)


def _fitting(row: Row, request: Request, limit: int | None) -> Row:
    """The row if it fits into the model; the end of another program's text, as that cuts it.

    Raises SampleError for what may not be cut: our own prompts, and those with pictures.
    """
    if request.verbatim and not row.picture:
        # Each choice leaves another room: cut when it is appended.
        if request.choices and request.probe is None:
            return row
        room = (limit or row.length) - request.decoding.max_new_tokens
        if limit and room > 0:
            return shortened_left(row, room)
    refuse_long(row.length, request.decoding, limit)
    return row


def _scored(job: Job, values: Mapping[int, ChoiceValue]) -> Prediction:
    found = [values[choice] for choice in range(len(job.request.choices))]
    if any(math.isnan(score) for score, _ in found):
        return _failed(job.request, NOT_NUMBERS)
    return Prediction(
        sample_id=job.request.sample_id,
        n_prompt_tokens=job.row.length,
        choice_scores=tuple(score for score, _ in found),
        choice_greedy=tuple(best for _, best in found) if job.request.verbatim else None,
    )


def _out_of_memory(error: BaseException) -> bool:
    """CPU and MPS say it in words only."""
    text = str(error).lower()
    return (
        isinstance(error, torch.OutOfMemoryError)
        or "out of memory" in text
        or "not enough memory" in text
        or "can't allocate memory" in text
    )
