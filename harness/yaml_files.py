"""YAML files that people write: read within limits, their mistakes told in this project's words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic_core import ErrorDetails

from harness.errors import ManifestError, Problem, did_you_mean

# Such a file is written by hand; anything larger is a mistake or an attack.
MAX_BYTES = 2_000_000
MAX_NODES = 200_000


def read_yaml(file: Path, keys: str, *, may_be_empty: bool = False) -> dict[str, Any]:
    """The file as plain values; refuses what only a mistake or an attack would write.

    `keys`: what the file should hold. Raises ManifestError.
    """

    def refuse(text: str) -> ManifestError:
        return ManifestError(file.name, text)

    try:
        size = file.stat().st_size
        if size > MAX_BYTES:
            raise refuse(f"{size:,} bytes; such a file has at most {MAX_BYTES:,}")
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise refuse(f"no such file in {file.absolute().parent.name}/") from None
    except UnicodeDecodeError as error:
        raise refuse(f"not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise refuse(f"cannot be read: {error.strerror}") from None
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is None and may_be_empty:
            return {}
        if node is None:
            raise refuse(f"the file is empty; expected keys {keys}")
        twice = [Problem(place, "key given twice") for place in _check_nodes(node, refuse)]
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        raise refuse(f"{line}not YAML: {getattr(error, 'problem', None) or error}") from None
    except (RecursionError, ValueError, TypeError) as error:
        raise refuse(f"not readable as YAML: {type(error).__name__}") from None
    if twice:
        raise ManifestError(file.name, twice)
    if not isinstance(value, dict):
        raise refuse(f"got {_kind(value)}, expected keys {keys}")
    return {str(key): item for key, item in value.items()}


def _check_nodes(root: yaml.Node, refuse: Any) -> list[str]:
    """Places of keys given twice. Counts nodes as aliases expand them (an alias bomb is small)."""
    count = 0
    twice: list[str] = []
    pending: list[tuple[yaml.Node, str, int]] = [(root, "", 0)]
    while pending:
        node, place, depth = pending.pop()
        count += 1
        if count > MAX_NODES or depth > 50:
            raise refuse("too many or too deep values once aliases are expanded")
        if isinstance(node, yaml.MappingNode):
            seen = set()
            for key, child in node.value:
                at = f"{place}.{key.value}" if place else str(key.value)
                if str(key.value) in seen:
                    twice.append(at)
                seen.add(str(key.value))
                pending.append((child, at, depth + 1))
        elif isinstance(node, yaml.SequenceNode):
            pending += [(c, f"{place}[{i}]", depth + 1) for i, c in enumerate(node.value)]
    return twice


def problem_of(details: ErrorDetails, schema: type[BaseModel]) -> Problem:
    """One pydantic error of `schema` in the words of this project."""
    place = ""
    for part in details["loc"]:
        place += f"[{part}]" if isinstance(part, int) else f".{part}" if place else str(part)
    kind, got = details["type"], details["input"]
    if kind == "value_error":
        return Problem(place, str(details["ctx"]["error"]))
    if kind == "missing":
        return Problem(place, "is missing")
    if kind == "extra_forbidden":
        known = _known_keys(details["loc"][:-1], schema)
        hint = did_you_mean(str(details["loc"][-1]), known) or f"; known: {', '.join(known)}"
        return Problem(place, f"unknown key{hint}")
    wanted = {
        "string_type": "a text", "int_type": "a whole number", "int_parsing": "a whole number",
        "int_from_float": "a whole number", "float_type": "a number", "float_parsing": "a number",
        "bool_parsing": "true or false", "bool_type": "true or false", "list_type": "a list",
        "model_type": "keys and values", "dict_type": "keys and values",
        "model_attributes_type": "keys and values",
    }.get(kind)  # fmt: skip
    if wanted is None:
        text = details["msg"][0].lower() + details["msg"][1:]
        return Problem(place, f"got {_kind(got)}, {text.replace('input should be', 'expected')}")
    return Problem(place, f"got {_kind(got)}, expected {wanted}")


def _kind(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "keys and values"
    if isinstance(value, list):
        return "a list"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _known_keys(loc: Sequence[int | str], schema: type[BaseModel]) -> list[str]:
    """The keys that the model at this place of the schema knows."""
    at: Any = schema
    for part in loc:
        if get_origin(at) in (list, dict):
            at = get_args(at)[-1]
        elif isinstance(at, type) and issubclass(at, BaseModel):
            fields = {field.alias or name: field for name, field in at.model_fields.items()}
            at = fields[str(part)].annotation
        else:
            return []
        while get_origin(at) in (Annotated, Union, UnionType):
            at = next(option for option in get_args(at) if option is not type(None))
    if not (isinstance(at, type) and issubclass(at, BaseModel)):
        return []
    return [field.alias or name for name, field in at.model_fields.items()]
