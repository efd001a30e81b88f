"""The structure: which room may know which, how large things may grow. Read from the source."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = {
    "torch", "torchvision", "transformers", "datasets", "vllm", "ray", "sklearn", "peft",
    "accelerate", "safetensors", "tokenizers", "huggingface_hub", "lm_eval", "matplotlib",
}  # fmt: skip
HEAVY_ROOMS = ("harness.engines", "harness.tune", "harness.micro")
# (module, library): why it may import a heavy library outside those rooms, inside a function.
HEAVY_ELSEWHERE = {
    (
        "harness.data.sources",
        "datasets",
    ): "hub data sets are read by their own library, if one is named",
    ("harness.resolver", "huggingface_hub"): "a hub id becomes a folder before an engine is chosen",
    ("harness.executors.ray_cluster", "ray"): "the one place that reaches other machines",
    ("harness.lmeval.library", "lm_eval"): "its tasks are asked by our engines, by its own rules",
    ("harness.export.adapters", "datasets"): "lm-eval wants its own rows; it has the library",
    ("harness.cli.demo", "transformers"): "its progress bars are silenced before training starts",
}
# What a report may take from the analysis: values, words, and the one door to a judgement.
VALUES = ("harness.analysis.scores", "harness.analysis.options")
REPORT_MAY_USE = {
    "JudgeOptions", "Judgement", "judge", "suite_settings", "RIGHT", "StrategyFigures",
    "HELD_OUT_MEAN", "MEAN", "PairedDifference", "percent", "points", "measured",
}  # fmt: skip
# Modules that count as rooms of their own, and why.
APART = {
    "harness.engines.options": "values that a manifest is checked against; no engine is behind it",
    "harness.scoring.study": "where stored answers meet scorers; the scorers know neither",
}
# A mean of rows for a chart is arithmetic; whatever needs one of these is an estimate.
ESTIMATORS = {
    "std", "var", "sem", "quantile", "percentile", "median", "cov", "corr", "corrcoef", "bootstrap",
}  # fmt: skip
LONGEST_FUNCTION = 100
WIDEST_SIGNATURE = 10
# In a command every option is a parameter: that is how typer reads them.
MAY_BE_WIDE = "harness.cli"


@cache
def modules() -> dict[str, Path]:
    """Dotted name -> file of every module of the two packages."""
    files = [*ROOT.glob("harness/**/*.py"), *ROOT.glob("tasks/*.py")]
    names = {".".join(file.relative_to(ROOT).with_suffix("").parts): file for file in files}
    return {name.removesuffix(".__init__"): file for name, file in sorted(names.items())}


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(modules()[module].read_text(encoding="utf-8"))


@cache
def imports(module: str, *, typing_too: bool = True) -> tuple[tuple[str, int], ...]:
    """(dotted name, line) of everything imported anywhere in a module."""
    return tuple(_imports(module, typing_too))


def _imports(module: str, typing_too: bool) -> Iterator[tuple[str, int]]:
    skipped = set() if typing_too else set(map(id, _type_checking_nodes(tree(module))))
    for node in ast.walk(tree(module)):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node.lineno


def _type_checking_nodes(module: ast.Module) -> Iterator[ast.AST]:
    for node in ast.walk(module):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for child in node.body:
                yield from ast.walk(child)


def target(name: str) -> str | None:
    """The module of ours that an imported name comes from."""
    while name and name not in modules():
        name = name.rpartition(".")[0]
    return name or None


def room(module: str) -> str:
    """A sub-package counts as one room, a flat module is its own."""
    if module in APART:
        return module
    parts = module.split(".")
    return parts[0] if parts[0] == "tasks" else ".".join(parts[:2])


def within(module: str, *rooms: str) -> bool:
    return any(module == place or module.startswith(place + ".") for place in rooms)


def test_heavy_libraries_stay_in_their_rooms() -> None:
    found = {
        (module, name.split(".")[0])
        for module in modules()
        if not within(module, *HEAVY_ROOMS)
        for name, _ in imports(module)
        if name.split(".")[0] in HEAVY
    }
    assert found == HEAVY_ELSEWHERE.keys(), "an unlisted import, or an exemption nobody needs"


@pytest.mark.parametrize(("module", "library"), HEAVY_ELSEWHERE)
def test_exempted_heavy_imports_are_inside_functions(module: str, library: str) -> None:
    top = [node for node in tree(module).body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in top for alias in node.names}
    names |= {node.module or "" for node in top if isinstance(node, ast.ImportFrom)}
    assert library not in {name.split(".")[0] for name in names}


# room -> what it must not import.
FORBIDDEN = {
    "tasks": ("harness.engines", "harness.analysis", "harness.storage", "harness.cli", "harness.run"),
    "harness.types": ("harness.",),
    "harness.errors": ("harness.",),
    "harness.engines": (
        "harness.analysis", "harness.scoring", "harness.report", "harness.cli", "harness.run",
        "harness.plan", "harness.storage", "harness.registry", "tasks",
    ),
    "harness.scoring": ("harness.engines", "harness.report", "harness.cli", "harness.run"),
    "harness.run": ("harness.scoring", "harness.analysis", "harness.report", "harness.registry"),
    "harness.schedule": ("harness.",),
    "harness.executors": ("harness.scoring", "harness.analysis", "harness.report", "harness.study"),
    "harness.storage": ("harness.engines", "harness.scoring", "harness.analysis", "harness.report"),
    "harness.gate": ("harness.engines", "harness.report", "harness.storage", "harness.cli"),
    "harness.report": ("harness.engines", "harness.cli", "harness.tune", "harness.micro", "scipy"),
}  # fmt: skip


@pytest.mark.parametrize("place", FORBIDDEN)
def test_a_room_does_not_know_what_comes_after_it(place: str) -> None:
    wrong = [
        f"{module}:{line} imports {name}"
        for module in modules()
        if within(module, place)
        for name, line in imports(module)
        if name.startswith(tuple(FORBIDDEN[place])) and not within(name, place)
    ]
    assert not wrong, "\n".join(wrong)


def test_the_analysis_knows_types_and_errors_only() -> None:
    allowed = ("harness.analysis", "harness.types", "harness.errors")
    wrong = [
        f"{module}:{line} imports {name}"
        for module in modules()
        if within(module, "harness.analysis")
        for name, line in imports(module)
        if within(name, "harness", "tasks") and not within(name, *allowed)
    ]
    assert not wrong, "\n".join(wrong)


def test_the_analysis_reads_no_file() -> None:
    words = {"open", "read_text", "write_text", "read_csv", "read_parquet", "to_csv"}
    wrong = [
        f"{module}:{node.lineno} {name}"
        for module in modules()
        if within(module, "harness.analysis")
        for node in ast.walk(tree(module))
        if isinstance(node, ast.Name | ast.Attribute)
        and (name := node.id if isinstance(node, ast.Name) else node.attr) in words
    ]
    wrong += [
        f"{module}:{line} imports {name}"
        for module in modules()
        if within(module, "harness.analysis")
        for name, line in imports(module)
        if within(name, "pathlib", "os", "io", "pyarrow")
    ]
    assert not wrong, "\n".join(wrong)


def test_reports_estimate_nothing() -> None:
    """They take values and words from the analysis, and call no estimator of their own."""
    wrong = []
    for module in modules():
        if not within(module, "harness.report"):
            continue
        for name, line in imports(module):
            known = name.split(".")[-1] in REPORT_MAY_USE or within(name, *VALUES)
            if within(name, "harness.analysis") and not known:
                wrong.append(f"{module}:{line} imports {name}")
        wrong += [
            f"{module}:{node.lineno} calls {node.attr}"
            for node in ast.walk(tree(module))
            if isinstance(node, ast.Attribute) and node.attr in ESTIMATORS
        ]
    assert not wrong, "\n".join(wrong)


def test_only_the_registry_imports_tasks() -> None:
    found = {
        module
        for module in modules()
        if not within(module, "tasks")
        for name, _ in imports(module)
        if within(name, "tasks")
    }
    assert found <= {"harness.registry"}


def test_there_is_no_circle_between_rooms() -> None:
    graph: dict[str, set[str]] = defaultdict(set)
    for module in modules():
        for name, _ in imports(module, typing_too=False):
            other = target(name)
            # `harness` itself holds the version only; the CLI is on top of everything.
            if other and room(other) not in (room(module), "harness"):
                graph[room(module)].add(room(other))
    assert _circle(graph) is None


def _circle(graph: dict[str, set[str]]) -> list[str] | None:
    """One circle as a path, or None."""
    done: set[str] = set()

    def visit(node: str, path: list[str]) -> list[str] | None:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return None
        for other in sorted(graph.get(node, ())):
            if found := visit(other, [*path, node]):
                return found
        done.add(node)
        return None

    return next((found for node in sorted(graph) if (found := visit(node, []))), None)


def test_a_circle_would_be_found() -> None:
    assert _circle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == ["a", "b", "c", "a"]
    assert _circle({"a": {"b", "c"}, "b": {"c"}}) is None


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """(dotted name, node) of every function and method."""
    for module in modules():
        for node in ast.walk(tree(module)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{module}.{node.name}", node


def test_no_function_is_too_long() -> None:
    long = {
        name: size
        for name, node in functions()
        if (size := (node.end_lineno or node.lineno) - node.lineno + 1) >= LONGEST_FUNCTION
    }
    assert not long


def test_no_signature_is_too_wide() -> None:
    wide = {
        name
        for name, node in functions()
        if _width(node.args) >= WIDEST_SIGNATURE and not within(name, MAY_BE_WIDE)
    }
    assert not wide


def _width(args: ast.arguments) -> int:
    named = [*args.posonlyargs, *args.args, *args.kwonlyargs]
    return len(named) + (args.vararg is not None) + (args.kwarg is not None)


def test_every_module_opens_by_saying_what_it_is() -> None:
    assert [name for name in modules() if not ast.get_docstring(tree(name))] == []


def test_no_drawer_for_odds_and_ends() -> None:
    drawers = {"utils", "util", "helpers", "misc", "common", "manager"}
    assert not {name for name in modules() if name.split(".")[-1] in drawers}
