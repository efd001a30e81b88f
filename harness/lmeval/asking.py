"""Asking: lm-eval's requests in the terms of our engines, and back.

Options of one document after one prompt are one request with choices, so that a prompt is read
once for all of them. Everything else is a request of its own. The words stay lm-eval's: prompts
are verbatim, `<image>` marks become image slots.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from string import ascii_uppercase
from typing import Any

from PIL import Image as PILImage

from harness.errors import DataError, Problem
from harness.lmeval.library import Chat, LoadedTask
from harness.lmeval.settings import PREFIX
from harness.types import Decoding, Prediction, Request, Sample

MARK = "<image>"
# lm-eval's default for tasks that name no limit.
MAX_GEN_TOKS = 256
TOKEN_LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
# Without sampling these change nothing.
IDLE = ("top_p", "top_k", "min_p", "seed", "do_sample", "temperature", "until")
SHOWN_PROBLEMS = 5


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture that a task decoded, known by its pixels."""

    picture: PILImage.Image

    @cached_property
    def sha256(self) -> str:
        """Hash (hex) of size and pixels."""
        shown = self.decode()
        return hashlib.sha256(f"{shown.size}".encode() + shown.tobytes()).hexdigest()

    def read(self) -> bytes:
        """The picture as PNG."""
        stream = io.BytesIO()
        self.decode().save(stream, "PNG")
        return stream.getvalue()

    def decode(self) -> PILImage.Image:
        """The picture as RGB, made so as the models' processors do it."""
        return self.picture.convert("RGB")


@dataclass(slots=True)
class Asked:
    """What a task asks, and which of lm-eval's requests each answer belongs to."""

    requests: list[Request] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    """One per request; those of one document share `doc["unit"]`."""
    members: list[list[Any]] = field(default_factory=list)
    """lm-eval's requests behind each of ours: one per choice, or one that is generated."""


def ask(loaded: LoadedTask) -> Asked:
    """All requests of a task, in the order of its documents.

    Raises DataError for requests that cannot be asked greedily, or whose marks and pictures do
    not fit, naming the first documents.
    """
    asked = Asked()
    problems: list[Problem] = []
    for document, instances in _by_document(loaded.instances).items():
        try:
            bundles = _bundles(instances)
            for number, bundle in enumerate(bundles):
                # What is shown of a document is its first request, under the document's name.
                name = f"{document}.{number}" if number else f"{document}"
                request = _request(name, bundle)
                asked.requests.append(request)
                asked.samples.append(_sample(loaded.task, request, bundle))
                asked.members.append(bundle)
        except ValueError as error:
            problems.append(Problem(f"document {document}", str(error)))
    if problems:
        more = len(problems) - SHOWN_PROBLEMS
        problems[SHOWN_PROBLEMS:] = [Problem("", f"and {more} more")] if more > 0 else []
        raise DataError(PREFIX + loaded.name, problems)
    return asked


def responses(asked: Asked, answers: Mapping[str, Prediction]) -> list[Any]:
    """lm-eval's requests with their responses filled in, documents with a failed answer left out.

    A likelihood is (nats, whether it is the greedy continuation), a generation its text; asked
    for several times, a greedy answer is the same each time.
    """
    lost = {
        member.doc_id
        for request, members in zip(asked.requests, asked.members, strict=True)
        for member in members
        if answers[request.sample_id].status != "ok"
    }
    filled = []
    for request, members in zip(asked.requests, asked.members, strict=True):
        prediction = answers[request.sample_id]
        for place, member in enumerate(members):
            if member.doc_id in lost:
                continue
            value: Any = prediction.text
            if request.choices:
                assert prediction.choice_scores is not None and prediction.choice_greedy is not None
                value = prediction.choice_scores[place], prediction.choice_greedy[place]
            member.resps = [value] * (member.repeats or 1)
            member.filtered_resps = {}
            filled.append(member)
    return filled


def _by_document(instances: Sequence[Any]) -> dict[Any, list[Any]]:
    found: dict[Any, list[Any]] = {}
    for instance in instances:
        found.setdefault(instance.doc_id, []).append(instance)
    return found


def _bundles(instances: Sequence[Any]) -> list[list[Any]]:
    """A document's requests, those that compare continuations of one prompt together."""
    bundles: dict[object, list[Any]] = {}
    for place, instance in enumerate(instances):
        if instance.request_type == "loglikelihood":
            pictures = tuple(id(visual.picture) for visual in _visuals(instance))
            bundles.setdefault((_turns(instance.args[0]), pictures), []).append(instance)
        elif instance.request_type == "generate_until":
            bundles[place] = [instance]
        else:
            raise ValueError(f"asks for {instance.request_type}, which no engine here answers")
    return list(bundles.values())


def _turns(context: Any) -> object:
    return context.turns if isinstance(context, Chat) else str(context)


def _request(name: str, bundle: Sequence[Any]) -> Request:
    context = bundle[0].args[0]
    pictures = tuple(_visuals(bundle[0]))
    compared = bundle[0].request_type == "loglikelihood"
    turns = context.turns if isinstance(context, Chat) else (("", str(context)),)
    slots = iter(range(10_000))
    pieces = [tuple(_parts(text, slots if pictures else iter(()))) for _, text in turns]
    parts = tuple(part for piece in pieces for part in piece)
    marks = sum(isinstance(part, int) for part in parts)
    if marks != len(pictures):
        raise ValueError(f"{len(pictures)} pictures, and {marks} marks {MARK} in its prompt")
    return Request(
        sample_id=name,
        parts=parts,
        images=pictures,
        decoding=Decoding(1) if compared else _decoding(bundle[0].args[1]),
        choices=tuple(str(instance.args[1]) for instance in bundle) if compared else (),
        verbatim=True,
        turns=tuple((role, len(piece)) for (role, _), piece in zip(turns, pieces, strict=True))
        if isinstance(context, Chat)
        else (),
    )


def _parts(text: str, slots: Iterator[int]) -> Iterator[str | int]:
    """The text with each mark turned into the next slot; marks stay text where no slot is left."""
    held = ""
    for place, piece in enumerate(text.split(MARK)):
        slot = next(slots, None) if place else None
        if place and slot is None:
            held += MARK
        elif slot is not None:
            if held:
                yield held
            yield slot
            held = ""
        held += piece
    if held:
        yield held


def _visuals(instance: Any) -> Iterator[Picture]:
    """The pictures of a request. Raises ValueError for other media and formats."""
    more = instance.args[2] if len(instance.args) > 2 else {}
    if more.get("audio") is not None:
        raise ValueError("has sound, which no engine here takes")
    visual = more.get("visual")
    if visual is None:
        return
    for picture in visual if isinstance(visual, list | tuple) else [visual]:
        if not isinstance(picture, PILImage.Image):
            kind = type(picture).__name__
            raise ValueError(f"doc_to_image gave {kind}, expected a list of PIL pictures")
        yield Picture(picture)


def _decoding(given: Any) -> Decoding:
    """lm-eval's generation settings. Raises ValueError for what is not greedy."""
    settings = dict(given)
    until = settings.get("until") or []
    stop = tuple(map(str, [until] if isinstance(until, str) else until))
    limits = [settings.pop(key) for key in TOKEN_LIMITS if settings.get(key) is not None]
    if settings.get("do_sample", float(settings.get("temperature") or 0) > 0):
        raise ValueError(
            "asks for sampled answers, which are not compared here; "
            "`suite.lm_eval.gen_kwargs: {do_sample: false, temperature: 0}` makes them greedy"
        )
    other = sorted(key for key in settings if key not in (*IDLE, *TOKEN_LIMITS))
    if other:
        raise ValueError(f"asks for {', '.join(other)}, which changes greedy answers")
    most = int(limits[0]) if limits else MAX_GEN_TOKS
    # lm-eval finds the empty string in whatever was said first, and cuts nothing there.
    if "" in stop:
        return Decoding(min(most, 1), tuple(filter(None, stop)))
    return Decoding(most, stop)


def _sample(task: Any, request: Request, bundle: Sequence[Any]) -> Sample:
    """What reports show of a request; its grade comes from lm-eval."""
    document = bundle[0].doc
    target = task.doc_to_target(document)
    lettered = len(request.choices) > 1 and isinstance(target, int) and 0 <= target < 26
    gold = ascii_uppercase[target] if lettered else str(target)
    unit = str(bundle[0].doc_id)
    doc: dict[str, Any] = {"unit": unit}
    doc["target"] = target if isinstance(target, int | str) else str(target)
    delimiter = _delimiter(task, document, request.choices)
    if delimiter is not None:
        doc["delimiter"] = delimiter
    return Sample(
        id=request.sample_id,
        question="".join(MARK if isinstance(part, int) else part for part in request.parts),
        answers=(gold,),
        choices=request.choices,
        group=request.images[0].sha256 if request.images else unit,
        answer_type="letter" if lettered else "phrase",
        chance=1 / len(request.choices) if lettered else 0.0,
        doc=doc,
    )


def _delimiter(task: Any, document: Any, continuations: Sequence[str]) -> int | None:
    """Letters before the text of each option, which lm-eval leaves out where it takes lengths.

    None where the requests are not just a document's options, or where the task has metrics of its
    own, of which nobody knows what they choose.
    """
    if getattr(task, "OUTPUT_TYPE", "") != "multiple_choice" or task.get_config("process_results"):
        return None
    options = [str(option) for option in task.doc_to_choice(document)]
    if len(options) != len(continuations):
        return None
    if not all(map(str.endswith, continuations, options)):
        return None
    return len(continuations[0]) - len(options[0])
