"""Asks: requests as vLLM's prompts and sampling parameters, and choices read from its outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image as PILImage
from vllm import SamplingParams

from harness.engines.prompts import Prompter, picture_key
from harness.engines.vllm_reading import extra_args
from harness.errors import SampleError
from harness.types import Decoding, Request

CANARY_TOKENS = 4
# Log-probability of a choice (nats), and whether greedy decoding would have said it.
ChoiceValue = tuple[float, bool]


@dataclass(frozen=True, slots=True)
class Ask:
    """One prompt on its way through the engine."""

    request: Request
    params: SamplingParams | None
    choices: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    more: tuple[int, ...] = ()
    """Tokens that follow the prompt: a choice being scored."""
    refusal: str = ""
    """Why it is not asked at all."""
    mass: str = ""
    """The name under which its class masses are noted; "" = they are not measured."""


class _CanaryPicture:
    """A picture that every engine start knows: a gradient."""

    sha256 = "forgeteval-canary-1"

    def read(self) -> bytes:
        return self.decode().tobytes()

    def decode(self) -> PILImage.Image:
        return PILImage.linear_gradient("L").resize((56, 56)).convert("RGB")


_BRIEF = Decoding(max_new_tokens=CANARY_TOKENS)
CANARIES = (
    Request("picture", (0, "What is shown?"), (_CanaryPicture(),), _BRIEF),
    Request("text", ("Count to three.",), (), _BRIEF),
)


def by_picture(requests: Sequence[Request]) -> list[Request]:
    """Questions on one picture after each other: its prefill is paid once for all of them."""
    first: dict[str, int] = {}
    for place, request in enumerate(requests):
        try:
            first.setdefault(picture_key(request), place)
        except SampleError:
            continue

    def order(request: Request) -> int:
        try:
            picture = picture_key(request)
        except SampleError:
            return -1
        return first[picture] if picture else -1

    return sorted(requests, key=order)


def greedy_ask(request: Request, mass: str, prompter: Prompter | None) -> Ask:
    forced = request.probe.tokens if request.probe else ()
    stop = () if forced else request.decoding.stop
    params = SamplingParams(
        temperature=0,
        max_tokens=len(forced) or request.decoding.max_new_tokens,
        ignore_eos=bool(forced),
        stop=list(filter(None, stop)) or None,
        stop_token_ids=prompter.ends(request) if prompter and not forced else None,
        detokenize=bool(stop),
        # Stop strings are looked for as transformers does it: names of special tokens are text.
        skip_special_tokens=not request.verbatim,
        extra_args=extra_args(mass, request.probe) if mass else None,
    )
    return Ask(request, params, mass=mass)


def choice_asks(requests: Sequence[Request], prompter: Prompter) -> Iterator[Ask]:
    """One ask per request whose choices are one token each, else one per choice."""
    for request in requests:
        try:
            tokens = prompter.choice_tokens(request)
        except SampleError as error:
            tokens, refusal = [], str(error)
        else:
            refusal = "" if tokens else "the request has no choices to compare"
        if refusal:
            yield Ask(request, None, refusal=refusal)
        elif all(len(choice) == 1 for choice in tokens):
            listed = [choice[0] for choice in tokens]
            params = SamplingParams(
                temperature=0, max_tokens=1, logprob_token_ids=sorted(set(listed))
            )
            yield Ask(request, params, choices=dict(enumerate(tokens)))
        else:
            params = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0)
            for index, choice in enumerate(tokens):
                yield Ask(request, params, choices={index: choice}, more=choice)


def choice_values(ask: Ask, output: Any) -> dict[int, ChoiceValue]:
    """Choice -> summed log-probability of its tokens (nats), whether each is the likeliest."""
    if not ask.more:
        answer = output.outputs[0]
        table, said = answer.logprobs[0], answer.token_ids[0]
        return {
            choice: (float(table[tokens[0]].logprob), said == tokens[0])
            for choice, tokens in ask.choices.items()
        }
    ((choice, tokens),) = ask.choices.items()
    tables = output.prompt_logprobs[-len(tokens) :]
    found = [table[token] for table, token in zip(tables, tokens, strict=True)]
    total = float(sum(entry.logprob for entry in found))
    return {choice: (total, all(entry.rank == 1 for entry in found))}
