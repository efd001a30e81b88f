"""Engine options are checked before anything heavy starts, and all mistakes are told at once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from harness.engines import identity
from harness.engines.layouts import canonical, served_name, shortened
from harness.engines.options import hf_options, vllm_options
from harness.errors import Problem, UserError

ARGS = ("model", "tensor_parallel_size", "max_model_len", "dtype", "enable_lora")


def vllm(options: dict[str, Any]) -> object:
    return vllm_options(options, ARGS)


@pytest.mark.parametrize(
    ("make", "options", "text"),
    [
        (
            hf_options,
            {"batchsize": 4},
            "engine.batchsize: unknown option; did you mean 'batch_size'?",
        ),
        (hf_options, {"batch_size": 0}, "engine.batch_size: got 0, expected a whole number from 1"),
        (hf_options, {"batch_size": True}, "got True, expected a whole number from 1"),
        (hf_options, {"batch_tokens": 1.5}, "got 1.5, expected a whole number from 1"),
        (hf_options, {"inputs_gb": "4"}, "engine.inputs_gb: got '4', expected a number from 0"),
        (hf_options, {"device": 0}, "engine.device: got 0, expected a word"),
        (hf_options, {"dtype": "bf16"}, "got 'bf16', expected one of float32, bfloat16, float16"),
        (hf_options, {"tensor_parallel_size": 2}, "engine.tensor_parallel_size: unknown option"),
        (vllm, {"tensor_paralel_size": 2}, "did you mean 'tensor_parallel_size'?"),
        (vllm, {"enable_lora": True}, "engine.enable_lora: set by forgeteval for each checkpoint"),
        (vllm, {"window": 0}, "engine.window: got 0, expected a whole number from 1"),
        (vllm, {"check_cold": 1}, "engine.check_cold: got 1, expected true or false"),
    ],
)
def test_a_wrong_option_has_its_own_message(
    make: Callable[[dict[str, Any]], object], options: dict[str, Any], text: str
) -> None:
    with pytest.raises(UserError) as caught:
        make(options)
    assert text in str(caught.value)


def test_all_wrong_options_are_told_at_once() -> None:
    with pytest.raises(UserError) as caught:
        hf_options({"batch": 1, "dtype": "float31", "features_gb": -1})
    places = [problem.place for problem in caught.value.problems]
    assert places == ["engine.batch", "engine.dtype", "engine.features_gb"]


def test_vllm_takes_its_own_arguments() -> None:
    made = vllm_options({"dtype": "bfloat16", "window": 8, "tensor_parallel_size": 2}, ARGS)
    assert (made.dtype, made.window, dict(made.arguments)) == (
        "bfloat16", 8, {"tensor_parallel_size": 2},
    )  # fmt: skip


def test_identity_holds_what_changes_answers_and_nothing_else() -> None:
    plain = identity("hf", {})
    assert plain["engine"] == "hf"
    assert plain["dtype"] == "float32"
    assert plain["library"].startswith("transformers ")
    assert plain["library"].count(".") == 1
    assert identity("hf", {"batch_size": 3, "device": "cpu"}) == plain
    assert identity("hf", {"dtype": "bfloat16"}) != plain


@pytest.mark.parametrize(
    ("kind", "options", "text"),
    [
        ("vlm", {}, "engine.kind: unknown engine 'vlm'; known: hf, vllm; did you mean 'vllm'?"),
        ("hf", {"dtype": "float8"}, "engine.dtype: got 'float8', expected one of float32"),
    ],
)
def test_identity_refuses(kind: str, options: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError) as caught:
        identity(kind, options)
    assert text in str(caught.value)


def test_a_library_that_is_not_installed_has_a_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.engines import options

    monkeypatch.setitem(options.LIBRARIES, "vllm", ("no-such-distribution",))
    with pytest.raises(UserError, match=r"pip install 'forgeteval\[vllm\]'"):
        identity("vllm", {})


def test_identity_needs_no_torch() -> None:
    code = (
        "import sys; from harness.engines import identity; identity('hf', {}); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'vllm')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_layouts_of_one_tensor_meet() -> None:
    names = [
        "language_model.model.layers.0.mlp.up_proj.weight",
        "model.language_model.layers.0.mlp.up_proj.weight",
        "model.layers.0.mlp.up_proj.weight",
    ]
    assert len({canonical(name) for name in names}) == 1
    towers = [
        "vision_tower.encoder.x",
        "vision_tower.vision_model.encoder.x",
        "model.vision_tower.vision_model.encoder.x",
        "model.vision_tower.encoder.x",
    ]
    assert len({canonical(name) for name in towers}) == 1
    assert served_name(towers[0]) == towers[1] == served_name(towers[1])
    assert served_name(towers[3]) == towers[2]
    assert served_name("visual.blocks.0.x") == "visual.blocks.0.x"


def test_long_lists_of_problems_are_counted() -> None:
    problems = [Problem(f"t{i}", "missing") for i in range(30)]
    assert shortened(problems)[:8] == problems[:8]
    assert str(shortened(problems)[-1]) == "and 22 more tensors"
    assert shortened(problems[:8]) == problems[:8]
