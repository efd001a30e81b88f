"""Writes what the docs take from the code: the command line, the manifest, its JSON Schema, tables.

    .venv/bin/python docs/make_reference.py           # write
    .venv/bin/python docs/make_reference.py --check   # exit 1 when a file is out of date

Whole files (`cli.md`, `manifest.md`, the schema) and blocks between `<!-- made: NAME -->` and
`<!-- end -->` inside hand-written pages.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import typer

from harness.analysis import minimum_detectable_effect
from harness.cli import app
from harness.engines.options import HFOptions, VLLMOptions
from harness.manifest import Manifest
from harness.names import NAME

HERE = Path(__file__).parent
ROOT = HERE.parent
BLOCK = re.compile(r"(<!-- made: (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.S)
SCHEMA_ID = "checkpoints.schema.json"


def main() -> None:
    """Writes the files, or says which are out of date."""
    stale = []
    for file, text in documents().items():
        if file.exists() and file.read_text(encoding="utf-8") == text:
            continue
        stale.append(str(file.relative_to(ROOT)))
        if "--check" not in sys.argv:
            file.parent.mkdir(exist_ok=True)
            file.write_text(text, encoding="utf-8")
    if "--check" in sys.argv and stale:
        sys.exit(f"out of date: {', '.join(stale)}; run `python docs/make_reference.py`")


def documents() -> dict[Path, str]:
    """file -> what should be in it."""
    pages = {
        HERE / "cli.md": cli_page(),
        HERE / "manifest.md": manifest_page(),
        ROOT / "schema" / SCHEMA_ID: json.dumps(manifest_schema(), indent=2) + "\n",
    }
    for file in sorted(HERE.glob("*.md")):
        if file not in pages and BLOCK.search(old := file.read_text(encoding="utf-8")):
            pages[file] = BLOCK.sub(lambda m: f"{m[1]}\n{BLOCKS[m['name']]()}\n{m[3]}", old)
    return pages


# The command line ---------------------------------------------------------------------------


def cli_page() -> str:
    """Every command with its help, arguments, options and examples."""
    root = typer.main.get_command(app)
    head = "# Command line\n\nWritten by `docs/make_reference.py` from the program itself.\n"
    commands = list(_commands(root, "forgeteval"))
    toc = "".join(f"- [`{path}`](#{path.replace(' ', '-')}): {_first(c)}\n" for path, c in commands)
    shared = "\n## Options of every command\n\n" + _parameters(root)
    return head + "\n" + toc + shared + "".join(_command(path, c) for path, c in commands)


def _commands(group: Any, path: str) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        yield f"{path} {name}", command
        if hasattr(command, "commands"):
            yield from _commands(command, f"{path} {name}")


def _first(command: Any) -> str:
    return str(command.help or "").split("\n\n")[0].replace("\n", " ")


def _command(path: str, command: Any) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    words = " ".join(
        (name if p.required else f"[{name}]") + ("..." if p.nargs == -1 else "")
        for p in arguments
        if (name := p.metavar or p.name.upper())
    )
    sub = "COMMAND" if hasattr(command, "commands") else ""
    usage = " ".join(filter(None, [path, "[OPTIONS]", words, sub]))
    parts = [f"\n## {path}\n\n```\n{usage}\n```\n\n{command.help or ''}\n"]
    if table := _parameters(command):
        parts.append("\n" + table)
    if command.epilog:
        parts.append("\n" + _examples(command.epilog))
    return "".join(parts)


def _parameters(command: Any) -> str:
    rows = [
        f"| {_spelling(p)} | {_escaped(p.help or '')}{_default(p)} |\n"
        for p in command.params
        if not getattr(p, "hidden", False) and not p.name.endswith("completion")
    ]
    return "| | |\n|---|---|\n" + "".join(rows) if rows else ""


def _spelling(p: Any) -> str:
    if p.param_type_name == "argument":
        return _escaped(f"`{p.metavar or p.name.upper()}`")
    names = ", ".join(f"`{opt}`" for opt in (*p.opts, *p.secondary_opts))
    value = "" if p.is_flag else f" {p.metavar or p.name.strip('_').upper()}"
    return _escaped(names + value)


def _default(p: Any) -> str:
    if p.required:
        return " *Required.*"
    if getattr(p, "is_flag", False) or p.default in (None, "", [], ()):
        return ""
    return f" Default: `{p.default}`."


def _examples(epilog: str) -> str:
    """An epilog: its lines one by one, as code where they are commands."""
    lines = [line.strip() for line in epilog.strip().splitlines() if line.strip()]
    return "```\n" + "\n".join(lines) + "\n```\n"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


# The manifest -------------------------------------------------------------------------------

# What the models' own docstrings leave unsaid; {"Class.field": text}.
UNSAID = {
    "BaseSpec.path": "Folder of the checkpoint, relative to the manifest.",
    "BaseSpec.hub": "Hub id, `ORG/NAME`.",
    "BaseSpec.revision": "Commit, tag or branch of the hub id.",
    "BaseSpec.trust_remote_code": "Run the Python code that the checkpoint brings along.",
    "EngineSpec.kind": "`hf` (transformers) or `vllm`; see [engines](engines.md).",
    "StageSpec.wise_ft": "Instead of `path`: weights interpolated when they are loaded.",
    "StageSpec.trained_on": "The target that the stage learned.",
    "StageSpec.name": "What tables call the stage; else `trained_on`.",
    "StageSpec.trust_remote_code": "As for the base, for this checkpoint alone.",
    "WiseFt.alpha": "Share of `with`, 0 to 1.",
    "RunSpec.stages": "Stages in order, or a glob of their folders.",
    "RunSpec.seed": "Seed of the training run; part of the run's label.",
    "RunSpec.order": "Name of the order in which skills were trained; part of the run's label.",
    "RunSpec.name": "The run's label, instead of order and seed.",
    "StrategySpec.stages": "Stages of a single run, in order, or a glob of their folders.",
    "StrategySpec.runs": "Instead of `stages`: several training runs (seeds, orders).",
    "Suite.targets": "Skills that stages train.",
    "Suite.held_out": "Benchmarks that no stage trains: here forgetting shows.",
    "Suite.probes": "Scored and shown, but in no mean.",
    "Suite.limit": "At most so many samples per benchmark, whole groups, the same for all.",
    "Suite.profile": "`fixed`: the intended prompts; `lmm_cl`: those of the study's program.",
    "Suite.scoring": "`generate`, or `loglikelihood` of each option where a task has options.",
    "Suite.sources": "Benchmark: where its data lie, instead of its hub data set.",
    "Suite.tasks": "Name: a benchmark of your own, without code.",
    "Suite.lm_eval": "How tasks of lm-eval (`lm_eval:NAME`) are asked; see [lm-eval](lm-eval.md).",
    "LmEvalSettings.fewshot_seed": "Seed of the sampler of examples, as `lm_eval --seed`.",
    "LmEvalSettings.system_instruction": "Put before every prompt, or as the system's turn.",
    "SourceOverride.revision": "Commit, tag or branch of the hub id.",
    "SourceOverride.split": "Split to read.",
    "SourceOverride.config": "Configuration (subset) of the hub data set.",
    "InlineTask.scorer": "What makes an answer right; see [metrics](metrics.md).",
    "InlineTask.split": "Split to read, where the folder has several.",
    "InlineTask.columns": "Which column holds what.",
    "InlineTask.max_new_tokens": "Longest answer, in tokens.",
    "InlineColumns.image": "The picture: bytes, a path or an address.",
    "InlineColumns.question": "The question.",
    "InlineColumns.id": "Unique name of a row; else rows are counted.",
    "InlineColumns.group": "What questions share (an image); else their pixels decide.",
    "InlineColumns.choices": "List of options.",
    "Manifest.study": "Name of the study and of its folder of results.",
    "Manifest.base": "The model before any tuning: a folder, a hub id, or a mapping.",
    "Manifest.engine": "How answers are generated.",
    "Manifest.suite": "What every checkpoint is scored on.",
    "Manifest.strategies": "Name: how stages were tuned, and the checkpoints they left.",
}
SOURCES = (
    "harness/manifest.py", "harness/data/sources.py", "harness/registry.py",
    "harness/lmeval/settings.py",
)  # fmt: skip


def manifest_schema() -> dict[str, Any]:
    """The manifest's JSON Schema for editors, with descriptions and the short forms."""
    schema = Manifest.model_json_schema(by_alias=True)
    texts = {**_docstrings(), **UNSAID}
    for name, model in [("Manifest", schema), *schema["$defs"].items()]:
        for field, spec in model.get("properties", {}).items():
            spec.pop("title", None)
            spec["description"] = texts[f"{name}.{'with_' if field == 'with' else field}"]
        model.pop("title", None)
    props, defs = schema["properties"], schema["$defs"]
    props["study"]["pattern"] = f"^{NAME.pattern}$"
    # What the program accepts beside the full form: a plain word, a glob, a list of shares.
    props["base"] = _or_text(props["base"])
    share = defs["WiseFt"]["properties"]["alpha"]
    one = {key: share.pop(key) for key in ("type", "minimum", "maximum")}
    share["anyOf"] = [one, {"type": "array", "items": one, "minItems": 1, "uniqueItems": True}]
    for spec in (defs["RunSpec"], defs["StrategySpec"]):
        spec["properties"]["stages"] = _or_text(spec["properties"]["stages"])
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "forgeteval manifest",
        **schema,
    }


def _or_text(spec: dict[str, Any]) -> dict[str, Any]:
    rest = {key: value for key, value in spec.items() if key not in ("description", "default")}
    kept = {key: value for key, value in spec.items() if key in ("description", "default")}
    return {"anyOf": [{"type": "string"}, *rest.pop("anyOf", [rest])], **kept}


def _docstrings(files: Sequence[str] = SOURCES) -> dict[str, str]:
    """{"Class.field": the string below the field} of the classes in `files`."""
    found = {}
    for file in files:
        for node in ast.parse((ROOT / file).read_text(encoding="utf-8")).body:
            body = node.body if isinstance(node, ast.ClassDef) else []
            for field, text in pairwise(body):
                if (
                    isinstance(field, ast.AnnAssign)
                    and isinstance(field.target, ast.Name)
                    and isinstance(text, ast.Expr)
                    and isinstance(text.value, ast.Constant)
                ):
                    key = f"{node.name}.{field.target.id}"  # type: ignore[attr-defined]
                    found[key] = " ".join(str(text.value.value).split())
    return found


MANIFEST_HEAD = """\
# Manifest

Written by `docs/make_reference.py` from the program's own schema. A manifest is one YAML file;
paths in it are relative to its folder. Every mistake is reported at once, each with its place.
`checkpoints.yaml` at the root of the repository is a commented example. For completion and checks
while you type, copy `schema/checkpoints.schema.json` beside your manifest and name it in the first
line:

```yaml
# yaml-language-server: $schema=checkpoints.schema.json
```

The schema knows shapes and names of keys. That folders exist, that tasks are known and that
`trained_on` is among the targets is said by `forgeteval score --dry-run`.
"""


def manifest_page() -> str:
    """One table per mapping of the manifest."""
    schema = manifest_schema()
    sections = [("The file", schema)]
    titles = {
        "BaseSpec": "base", "EngineSpec": "engine", "Suite": "suite",
        "SourceOverride": "suite.sources.NAME", "InlineTask": "suite.tasks.NAME",
        "LmEvalSettings": "suite.lm_eval",
        "InlineColumns": "suite.tasks.NAME.columns", "StrategySpec": "strategies.NAME",
        "RunSpec": "strategies.NAME.runs", "StageSpec": "stages", "WiseFt": "stages.wise_ft",
    }  # fmt: skip
    sections += [(title, schema["$defs"][name]) for name, title in titles.items()]
    return MANIFEST_HEAD + "".join(_section(title, model) for title, model in sections)


def _section(title: str, model: dict[str, Any]) -> str:
    required = model.get("required", [])
    rows = [
        f"| `{key}` | {_type(spec)} | {_default_of(key, spec, required)} "
        f"| {_escaped(spec['description'])} |\n"
        for key, spec in model["properties"].items()
    ]
    head = f"\n## {title}\n\n{model['description']}\n\n| key | value | default | |\n"
    return head + "|---|---|---|---|\n" + "".join(rows)


def _default_of(key: str, spec: dict[str, Any], required: list[str]) -> str:
    if key in required:
        return "required"
    value = spec.get("default")
    plain = value is not None and not isinstance(value, dict | list) and value != ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`" if plain else ""


def _type(spec: dict[str, Any]) -> str:
    if "$ref" in spec:
        return "mapping"
    if "enum" in spec:
        return " \\| ".join(f"`{value}`" for value in spec["enum"])
    if "anyOf" in spec:
        kinds = [_type(part) for part in spec["anyOf"] if part.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    kind = spec["type"]
    if kind == "array":
        return f"list of {_type(spec['items'])}"
    names = {"string": "text", "boolean": "true/false", "integer": "whole number"}
    low, high = spec.get("minimum"), spec.get("maximum")
    span = f", {low:g} to {high:g}" if high is not None else f" from {low}" if low else ""
    return names.get(kind, {"object": "mapping"}.get(kind, kind)) + span


# Blocks in hand-written pages ------------------------------------------------------------------


def modules_table() -> str:
    """Every module and the first sentence of its docstring, which is what may be in it."""
    lines = []
    files = sorted([*ROOT.glob("harness/**/*.py"), ROOT / "tasks/__init__.py"])
    for folder in sorted({file.parent for file in files}):
        inside = [file for file in files if file.parent == folder]
        gap = "\n" if lines else ""
        lines.append(f"{gap}**`{folder.relative_to(ROOT).as_posix()}/`**\n\n")
        lines.append("| module | |\n|---|---|\n")
        for file in inside:
            doc = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
            sentence = " ".join(doc.split("\n\n")[0].split())
            lines.append(f"| `{file.relative_to(ROOT).as_posix()}` | {_escaped(sentence)} |\n")
    return "".join(lines)


def detectable_table() -> str:
    """Minimum detectable effect in points by samples and flip rate, one benchmark."""
    flips = (0.05, 0.10, 0.15, 0.30)
    lines = ["| samples | " + " | ".join(f"{p:.0%} flip" for p in flips) + " |\n"]
    lines.append("|---|" + "---|" * len(flips) + "\n")
    for n in (100, 250, 500, 1_000, 2_500, 5_000, 10_000):
        cells = [f"{100 * minimum_detectable_effect((p / n) ** 0.5):.1f}" for p in flips]
        lines.append(f"| {n:,} | " + " | ".join(cells) + " |\n")
    return "".join(lines)


def retained_table() -> str:
    """Samples that show `retained` with power 0.8 where nothing changed, by margin."""
    flips = (0.05, 0.10, 0.15, 0.30)
    # One-sided at 0.95 is the two-sided limit at 0.90.
    unit = minimum_detectable_effect(1.0, level=0.90)
    lines = ["| margin (points) | " + " | ".join(f"{p:.0%} flip" for p in flips) + " |\n"]
    lines.append("|---|" + "---|" * len(flips) + "\n")
    for margin in (0.5, 1.0, 2.0, 3.0, 5.0):
        cells = [f"{round(p * (unit / (margin / 100)) ** 2):,}" for p in flips]
        lines.append(f"| {margin:g} | " + " | ".join(cells) + " |\n")
    return "".join(lines)


def options_table(kind: str) -> str:
    """Options of one engine, from the fields and their docstrings."""
    texts = _docstrings(("harness/engines/options.py",))
    rows = [
        f"| `{entry.name}` | {_option_default(entry.default)} "
        f"| {_escaped(texts[f'{OPTIONS[kind].__name__}.{entry.name}'])} |\n"
        for entry in fields(OPTIONS[kind])
        if entry.name != "arguments"
    ]
    return "| key | default | |\n|---|---|---|\n" + "".join(rows)


def _option_default(value: object) -> str:
    if value is MISSING:  # made by a factory: nothing by default
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


OPTIONS: dict[str, type[HFOptions] | type[VLLMOptions]] = {"hf": HFOptions, "vllm": VLLMOptions}
BLOCKS: dict[str, Callable[[], str]] = {
    "hf-options": lambda: options_table("hf"),
    "vllm-options": lambda: options_table("vllm"),
    "modules": modules_table,
    "detectable": detectable_table,
    "retained": retained_table,
}


if __name__ == "__main__":
    main()
