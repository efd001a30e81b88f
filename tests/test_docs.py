"""The docs: made from the code where they can be, and true where they are written by hand."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer
import yaml
from printed import DOCS, FENCE, ROOT, blocks, commands

README = ROOT / "README.md"
PAGES = sorted(DOCS.glob("*.md"))
SCHEMA = json.loads((ROOT / "schema" / "checkpoints.schema.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def made() -> dict[Path, str]:
    """file -> what docs/make_reference.py would write there."""
    return _module(DOCS / "make_reference.py").documents()


def _module(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "name",
    ["docs/cli.md", "docs/manifest.md", "docs/architecture.md", "docs/engines.md",
     "docs/statistics.md", "schema/checkpoints.schema.json"],
)  # fmt: skip
def test_what_the_code_says_is_up_to_date(made: dict[Path, str], name: str) -> None:
    file = ROOT / name
    assert file.read_text(encoding="utf-8") == made[file], "run: python docs/make_reference.py"


def test_every_module_that_architecture_names_exists_and_every_module_is_named() -> None:
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    # `*` stands for a family in the picture; folders end in a slash.
    named = set(re.findall(r"`((?:harness|tasks|tests|benchmarks)/[\w/.-]+)`", text))
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
    modules = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("harness/**/*.py")}
    assert modules - named == set()


def test_the_road_is_walked_in_the_order_of_the_imports() -> None:
    """Each step of the road is owned by a module or folder; none is named without a step."""
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    road = text.split("## The road of a sample")[1].split("\n## ")[0]
    steps = re.findall(r"^\| (\d+)\. .*\| ([^|]+) \|$", road, re.M)
    assert [int(number) for number, _ in steps] == list(range(1, len(steps) + 1))
    assert len(steps) >= 15
    assert all("`" in owner for _, owner in steps)


# Links -----------------------------------------------------------------------------------------


def _anchors(file: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub and MkDocs make them."""
    text = FENCE.sub("", file.read_text(encoding="utf-8"))
    heads = re.findall(r"^#+ (.+)$", text, re.M)
    plain = [re.sub(r"[^\w\- ]", "", head.lower()) for head in heads]
    return {re.sub(r"[ ]", "-", head.strip()) for head in plain}


@pytest.mark.parametrize("page", [*PAGES, README, ROOT / "CONTRIBUTING.md"], ids=str)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"`[^`\n]*`", "", FENCE.sub("", page.read_text(encoding="utf-8")))
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        file = (page.parent / path).resolve() if path else page
        known = file.exists() and (not anchor or file.suffix != ".md" or anchor in _anchors(file))
        if not known:
            broken.append(link)
    assert not broken


def test_pages_of_the_site_link_to_no_file_outside_of_it() -> None:
    outside = [
        (page.name, link)
        for page in PAGES
        for link in re.findall(r"\]\((\.\./[^)\s]+)\)", page.read_text(encoding="utf-8"))
    ]
    assert not outside


def test_every_page_is_in_the_navigation() -> None:
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))

    def leaves(node: Any) -> Iterator[str]:
        if isinstance(node, str):
            yield node
        for child in node.values() if isinstance(node, dict) else node * isinstance(node, list):
            yield from leaves(child)

    assert sorted(leaves(config["nav"])) == [page.name for page in PAGES]


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    shutil.copytree(DOCS, tmp_path / "docs")
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    program = Path(sys.executable).parent / "zensical"
    command = [program, "build", "--strict"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    made = {page.stem for page in (tmp_path / "site").glob("*.html")}
    assert made >= {page.stem for page in PAGES}


# Commands and YAML shown -------------------------------------------------------------------------


SHOWN = [
    pytest.param(command, id=f"{page.stem}: {command[:70]}")
    for page in [*PAGES, README]
    if page.name != "cli.md"
    for command in commands(page)
]


@pytest.mark.parametrize("command", SHOWN)
def test_commands_in_the_docs_are_commands_of_the_program(command: str) -> None:
    words = [word for word in shlex.split(command)[1:] if not word.startswith(">")]
    node: Any = _program()
    options = _options(node)
    while words and hasattr(node, "commands"):
        if words[0].startswith("-"):  # an option of every command, with its value
            assert words[0] in options
            words = words[2:]
        elif words[0] in node.commands:
            node = node.commands[words.pop(0)]
        else:
            break
    assert node.name != "forgeteval", f"no such command: {command}"
    known = options | _options(node)
    used = {word.split("=")[0] for word in words if word.startswith("--")}
    assert used <= known


@cache
def _program() -> Any:
    """The whole tree of commands."""
    from harness.cli import app

    return typer.main.get_command(app)


def _options(node: Any) -> set[str]:
    return {opt for p in node.params for opt in (*p.opts, *p.secondary_opts)} | {"--help"}


def test_every_command_helps() -> None:
    def walk(node: Any) -> Iterator[tuple[str, Any]]:
        for name, child in getattr(node, "commands", {}).items():
            yield name, child
            yield from walk(child)

    for name, command in walk(_program()):
        assert command.help, f"{name} has no help"
        nameless = [p.name for p in command.params if not p.help and "complet" not in p.name]
        assert not nameless, f"{name}: {nameless} have no help"


def test_the_schema_takes_the_committed_manifest_and_refuses_a_typo() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    manifest = yaml.safe_load((ROOT / "checkpoints.yaml").read_text(encoding="utf-8"))
    jsonschema.validate(manifest, SCHEMA)
    with pytest.raises(jsonschema.ValidationError, match="held_uot"):
        jsonschema.validate(manifest | {"suite": {"held_uot": []}}, SCHEMA)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(manifest | {"study": "../x"}, SCHEMA)


@pytest.mark.parametrize("page", [*PAGES, README], ids=lambda page: page.name)
def test_manifests_in_the_docs_fit_the_schema(page: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    for kind, body in blocks(page):
        shown = yaml.safe_load(body) if kind == "yaml" else None
        if isinstance(shown, dict) and {"study", "suite"} <= shown.keys():
            jsonschema.validate(shown, SCHEMA)


def test_every_key_of_the_manifest_is_described() -> None:
    models = [SCHEMA, *SCHEMA["$defs"].values()]
    specs = [spec for model in models for spec in model["properties"].values()]
    assert all(spec["description"] for spec in specs)
    assert len(specs) > 40


def test_the_policy_shown_is_a_policy() -> None:
    from harness.policy import Policy

    shown = [
        yaml.safe_load(body)
        for kind, body in blocks(DOCS / "ci.md")
        if kind == "yaml" and "margins:" in body
    ]
    assert [Policy.model_validate(policy).margin_of("docvqa") for policy in shown] == [0.5]


# Doctor ----------------------------------------------------------------------------------------


def test_doctor_says_what_is_missing_and_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.cli import doctor

    there = {"torch", "transformers", "sklearn"}
    monkeypatch.setattr(doctor, "find_spec", lambda name: name if name in there else None)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    found = {extra.name: extra for extra in doctor.diagnose().extras}
    assert found["demo"].usable and found["demo"].cure == ""
    assert not found["hf"].usable
    assert found["hf"].cure == "pip install 'forgeteval[hf]'"
    assert "peft" in found["hf"].missing
    assert doctor.diagnose().gpus == ()
    assert not any("MODEL_RUNNER" in line for line in doctor.diagnose().advice)
    monkeypatch.setattr(doctor, "find_spec", lambda name: name)
    monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", "1")
    assert any("probes cannot be read" in line for line in doctor.diagnose().advice)


def test_doctor_reads_cards_whose_names_hold_commas() -> None:
    from harness.cli.doctor import Gpu, gpus_of

    text = "NVIDIA H200, 143771, 570.1\nOdd, Card, 8192, 1.2\nnot a card\n"
    assert gpus_of(text) == [Gpu("NVIDIA H200", 143771, "570.1"), Gpu("Odd, Card", 8192, "1.2")]


def test_doctor_knows_the_extras_of_the_package() -> None:
    import tomllib

    from harness.cli.doctor import EXTRAS

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert EXTRAS.keys() == project["optional-dependencies"].keys()
