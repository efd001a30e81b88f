"""The audit reads from the weights what a stage changed, and holds it against what is declared."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

from harness import audit
from harness.audit_record import STATUSES
from harness.cli import app
from harness.errors import EXIT_INCOMPATIBLE, CheckpointError
from harness.weights.differences import difference

HUB = {
    "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight": (4, 4),
    "vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight": (8, 4),
    "multi_modal_projector.linear_1.weight": (6, 4),
    "image_newline": (6,),
    "language_model.model.embed_tokens.weight": (10, 6),
    **{
        f"language_model.model.layers.{layer}.{module}.weight": shape
        for layer in range(3)
        for module, shape in {
            "self_attn.q_proj": (6, 6),
            "self_attn.o_proj": (6, 6),
            "mlp.gate_proj": (12, 6),
            "mlp.up_proj": (12, 6),
            "mlp.down_proj": (6, 12),
            "input_layernorm": (6,),
        }.items()
    },
    "language_model.lm_head.weight": (10, 6),
}


def weights(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in HUB.items()}


def write(folder: Path, tensors: dict[str, np.ndarray], **config: object) -> Path:
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "llava", **config}))
    return folder


def tuned(part: str, by: float = 0.01) -> dict[str, np.ndarray]:
    return {n: t + np.float32(by) if part in n else t for n, t in weights().items()}


@pytest.fixture
def base(tmp_path):
    return write(tmp_path / "base", weights())


def test_a_bit_identical_copy_is_identical(base, tmp_path):
    copy = write(tmp_path / "copy", weights())
    found = audit.audit_pair(base, copy)
    assert (found.status, found.passes, found.moved) == ("identical", True, ())
    # But not if it is said to have been trained.
    assert not audit.audit_pair(base, copy, "sa_proj").passes


def test_a_declared_component_that_moved_is_verified(base, tmp_path):
    stage = write(tmp_path / "stage", tuned("language_model.model.layers.1.self_attn"))
    found = audit.audit_pair(base, stage, "sa_proj")
    assert (found.status, found.moved) == ("verified", ("sa_proj",))
    rows = {row.component: row for row in audit.component_moves(found.differences[0][1])}
    assert (rows["sa_proj"].tensors_moved, rows["sa_proj"].tensors) == (2, 6)
    assert rows["sa_proj"].largest == pytest.approx(0.01, rel=1e-4)
    assert [layer for layer, _ in rows["sa_proj"].largest_layers] == [1]
    before = weights()
    names = [f"language_model.model.layers.1.self_attn.{p}_proj.weight" for p in "qo"]
    start = sum((before[name] ** 2).sum() for name in names)
    assert rows["sa_proj"].relative_norm == pytest.approx(np.sqrt(72 * 1e-4 / start), rel=1e-4)
    assert rows["vision"].tensors_moved == 0


def test_a_planted_down_proj_is_found_and_named(base, tmp_path):
    planted = "language_model.model.layers.2.mlp.down_proj.weight"
    tensors = tuned("gate_proj") | {planted: weights()[planted] + np.float32(1e-6)}
    stage = write(tmp_path / "stage", tensors)
    found = audit.audit_pair(base, stage, "mlp_gate_up")
    assert found.status == "mismatch"
    assert found.problems == (
        "declared mlp_gate_up, but 1 tensor of mlp_down moved",
        planted,
    )
    result = CliRunner().invoke(
        app, ["audit", str(base), str(stage), "--component", "mlp_gate_up"], env={"COLUMNS": "200"}
    )
    assert result.exit_code == EXIT_INCOMPATIBLE
    assert "stage: MISMATCH (declared mlp_gate_up)" in result.stdout
    assert planted in result.stdout


def test_the_vision_tower_is_not_the_language_model(base, tmp_path):
    stage = write(tmp_path / "stage", tuned("self_attn.q_proj"))
    found = audit.audit_pair(base, stage, "sa_proj")
    assert found.problems[0] == "declared sa_proj, but 1 tensor of vision moved"


def test_layouts_are_told_from_changes(base, tmp_path):
    def repository(name: str) -> str:
        name = name.replace(
            "vision_tower.vision_model", "model.vision_tower.vision_tower.vision_model"
        )
        name = name.replace("multi_modal_projector.linear_1", "model.mm_projector.0")
        name = name.replace("language_model.model.", "model.").replace("image_", "model.image_")
        return name.replace("language_model.lm_head", "lm_head")

    same = write(tmp_path / "same", {repository(n): t for n, t in weights().items()})
    assert audit.audit_pair(base, same).status == "identical"
    moved = write(tmp_path / "moved", {repository(n): t for n, t in tuned("up_proj").items()})
    assert audit.audit_pair(base, moved, "mlp_gate_up").status == "verified"


def test_declared_tensors_that_stayed_are_a_note_and_no_mismatch(base, tmp_path):
    """LLaVA models never read the vision tower's last norm or the layers behind the features."""
    stage = write(tmp_path / "stage", tuned("vision_model.encoder.layers.0.self_attn"))
    found = audit.audit_pair(base, stage, "vision")
    stayed = "vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight"
    assert (found.status, found.passes, found.unmoved) == ("verified", True, (stayed,))
    assert audit.record([found])["stages"][0]["unmoved"] == [stayed]
    arguments = ["audit", str(base), str(stage), "--component", "vision"]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert f"  note: 1 tensor declared but did not move: {stayed}" in result.stdout
    assert audit.audit_pair(base, stage).notes == ()


def test_a_summand_of_which_nothing_moved_is_a_mismatch(base, tmp_path):
    stage = write(tmp_path / "stage", tuned("language_model.model.layers.1.self_attn"))
    found = audit.audit_pair(base, stage, "sa_proj+projector")
    assert found.status == "mismatch"
    assert found.problems == ("declared sa_proj+projector, but nothing of projector moved",)


def test_the_newline_goes_with_the_language_model(base, tmp_path):
    tensors = tuned("language_model.") | {"image_newline": weights()["image_newline"] + 1}
    stage = write(tmp_path / "stage", tensors)
    assert audit.audit_pair(base, stage, "llm").status == "verified"
    assert audit.audit_pair(base, stage, "sa_proj+mlp").status == "mismatch"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda t: t.pop("image_newline"), "1 tensor missing: image_newline"),
        (lambda t: t.update(extra=t["image_newline"]), "1 tensor added: extra"),
        (
            lambda t: t.update(image_newline=np.zeros(7, np.float32)),
            "1 tensor of other shape: image_newline is 7, was 6",
        ),
        (
            lambda t: t.update(image_newline=t["image_newline"].astype(np.float64)),
            "1 tensor of other type: image_newline is F64, was F32",
        ),
        (
            lambda t: t.update(image_newline=np.full(6, np.nan, np.float32)),
            "1 tensor hold NaN or Inf: image_newline",
        ),
        (
            lambda t: t.update(image_newline=np.full(6, -np.inf, np.float32)),
            "1 tensor hold NaN or Inf: image_newline",
        ),
    ],
)
def test_a_checkpoint_that_is_another_model_is_broken(base, tmp_path, change, problem):
    tensors = weights()
    change(tensors)
    found = audit.audit_pair(base, write(tmp_path / "stage", tensors))
    assert found.status == "broken"
    assert problem in found.problems


def test_nan_in_both_is_still_said(tmp_path):
    tensors = weights() | {"image_newline": np.full(6, np.nan, np.float32)}
    found = audit.audit_pair(write(tmp_path / "a", tensors), write(tmp_path / "b", tensors))
    assert found.status == "broken"


HEAD, EMBEDDINGS = "language_model.lm_head.weight", "language_model.model.embed_tokens.weight"


def headed(folder: Path, head: np.ndarray | None, tied: bool) -> Path:
    """The base's weights with this head, or without one."""
    tensors = weights() | {HEAD: head}
    if head is None:
        del tensors[HEAD]
    return write(folder, tensors, text_config={"tie_word_embeddings": tied})


def test_a_tied_head_may_be_left_out(tmp_path):
    same = weights()[EMBEDDINGS]
    stored, left_out = headed(tmp_path / "a", same, True), headed(tmp_path / "b", None, True)
    apart = headed(tmp_path / "c", same, False)
    for one, other in ((stored, left_out), (left_out, stored), (apart, left_out)):
        assert audit.audit_pair(one, other).status == "identical"
    assert audit.audit_pair(left_out, apart).status == "identical"


def test_a_head_that_is_tied_or_untied_on_the_way_is_compared_in_effect(tmp_path):
    tensors = tuned("layers.1.self_attn")
    del tensors[HEAD]
    own, tied = headed(tmp_path / "own", weights()[HEAD], False), headed(tmp_path / "t", None, True)
    for start, stage in (
        (own, write(tmp_path / "drops", tensors, tie_word_embeddings=True)),
        (tied, write(tmp_path / "gains", tuned("layers.1.self_attn"), tie_word_embeddings=False)),
    ):
        found = audit.audit_pair(start, stage, "sa_proj")
        assert found.status == "mismatch"
        assert found.problems[0] == "declared sa_proj, but 1 tensor of head moved"
        assert audit.audit_pair(start, stage, "sa_proj+head").status == "verified"
    # Tied by its configuration, but transformers uses a stored head that differs.
    said = headed(tmp_path / "said", weights()[HEAD], True)
    for pair in ((tied, said), (said, tied)):
        assert list(audit.audit_pair(*pair).differences[0][1].moves) == [
            HEAD if pair[1] is said else "lm_head.weight"
        ]
    # A stage that lost its head and does not say that it is tied is torn.
    lost = write(tmp_path / "lost", tensors)
    assert audit.audit_pair(own, lost, "sa_proj").problems[0] == f"1 tensor missing: {HEAD}"


def test_two_names_for_one_tensor_are_broken(base, tmp_path):
    """Only one of them would be compared, and a loader may take the other."""
    twin = "model.layers.0.mlp.down_proj.weight"
    tensors = tuned("layers.1.self_attn") | {twin: np.ones((6, 12), np.float32)}
    found = audit.audit_pair(base, write(tmp_path / "stage", tensors), "sa_proj")
    assert (found.status, found.passes) == ("broken", False)
    assert found.problems[0].startswith("two names for one tensor: ")
    assert twin in found.problems[0] and f"language_model.{twin}" in found.problems[0]


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_norms_of_sixteen_bit_weights(tmp_path, dtype):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as save_torch

    kind = {"F16": torch.float16, "BF16": torch.bfloat16}[dtype]
    name = "model.layers.0.mlp.up_proj.weight"
    # More elements than a chunk, and not a whole number of chunks.
    start = torch.randn(700, 301, generator=torch.Generator().manual_seed(0)).to(kind)
    moved = start.clone()
    moved[650, 7] += 1
    for folder, tensor in (("a", start), ("b", moved)):
        write(tmp_path / folder, {})
        save_torch({name: tensor}, tmp_path / folder / "model.safetensors")
    found = difference(tmp_path / "a", tmp_path / "b").moves[name]
    step = float(moved[650, 7].float() - start[650, 7].float())
    assert found.largest == pytest.approx(step)
    norm = step / float(start.double().norm())
    assert found.relative_norm == pytest.approx(norm, rel=1e-5)


def adapter(
    folder: Path, a: np.ndarray, b: np.ndarray, module: str = "mlp.up_proj", **config: object
) -> Path:
    folder.mkdir()
    head = f"base_model.model.model.language_model.layers.0.{module}"
    save_file(
        {f"{head}.lora_A.weight": a, f"{head}.lora_B.weight": b},
        folder / "adapter_model.safetensors",
    )
    config = {"r": len(a), "lora_alpha": 4, **config}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def test_an_adapter_counts_as_the_change_it_makes(base, tmp_path):
    rng = np.random.default_rng(1)
    a = rng.standard_normal((2, 6)).astype(np.float32)
    b = rng.standard_normal((12, 2)).astype(np.float32)
    found = audit.audit_pair(base, adapter(tmp_path / "lora", a, b), "mlp_gate_up")
    assert found.status == "verified"
    (move,) = found.differences[0][1].moves.values()
    start = weights()["language_model.model.layers.0.mlp.up_proj.weight"]
    change = 4 / 2 * b @ a
    assert move.relative_norm == pytest.approx(np.linalg.norm(change) / np.linalg.norm(start), 1e-4)
    assert move.largest == pytest.approx(np.abs(change).max(), 1e-5)
    twice = adapter(tmp_path / "twice", a, b, alpha_pattern={"mlp.up_proj": 8}, r=99)
    (double,) = difference(base, twice).moves.values()
    assert double.largest == pytest.approx(2 * move.largest, 1e-6)
    # An adapter as it begins changes nothing; the same one again is no change from before.
    assert audit.audit_pair(base, adapter(tmp_path / "new", a, b * 0)).differences[0][1].identical
    assert difference(tmp_path / "lora", adapter(tmp_path / "again", a, b)).identical
    stray = adapter(tmp_path / "stray", a, b[:6], "self_attn.q_proj")
    assert "1 tensor of sa_proj moved" in audit.audit_pair(base, stray, "mlp+llm[1:]").problems[0]


PEFT = "base_model.model.model.language_model"


def folder_of(folder: Path, tensors: dict[str, np.ndarray], **config: object) -> Path:
    """An adapter with any tensors."""
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, **config}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def factors(module: str, outputs: int = 6, inputs: int = 6, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        f"{PEFT}.{module}.lora_A.weight": rng.standard_normal((2, inputs)).astype(np.float32),
        f"{PEFT}.{module}.lora_B.weight": rng.standard_normal((outputs, 2)).astype(np.float32),
    }


Q = "layers.0.self_attn.q_proj"


def test_an_adapters_embeddings_count(base, tmp_path):
    rng = np.random.default_rng(3)
    a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, 10), (6, 2)))
    module = f"{PEFT}.embed_tokens"
    tensors = {f"{module}.lora_embedding_A": a, f"{module}.lora_embedding_B": b, **factors(Q)}
    lora = folder_of(tmp_path / "lora", tensors)
    found = audit.audit_pair(base, lora, "sa_proj")
    assert found.problems[0] == "declared sa_proj, but 1 tensor of embeddings moved"
    move = found.differences[0][1].moves["language_model.embed_tokens.weight"]
    change = 2 * (b @ a).T
    norm = np.linalg.norm(change) / np.linalg.norm(weights()[EMBEDDINGS])
    assert move.relative_norm == pytest.approx(norm, 1e-5)
    assert move.largest == pytest.approx(np.abs(change).max(), 1e-5)
    assert audit.audit_pair(base, lora, "sa_proj+embeddings").status == "verified"


def test_an_adapters_biases_count(tmp_path):
    """`lora_bias` adds to a bias, `bias: lora_only` replaces it."""
    name = f"language_model.model.{Q}.bias"
    start = np.arange(1, 7, dtype=np.float32)
    base = write(tmp_path / "base", weights() | {name: start})
    bias = np.ones(6, np.float32)
    added = folder_of(
        tmp_path / "added", factors(Q) | {f"{PEFT}.{Q}.lora_B.bias": bias}, lora_bias=True
    )
    replaced = folder_of(
        tmp_path / "replaced", factors(Q) | {f"{PEFT}.{Q}.base_layer.bias": start + 2 * bias}
    )
    for lora in (added, replaced):
        found = audit.audit_pair(base, lora, "sa_proj")
        assert found.status == "verified"
        move = found.differences[0][1].moves[f"language_model.{Q}.bias"]
        assert move.largest == 2
        assert move.relative_norm == pytest.approx(2 * np.sqrt(6) / np.linalg.norm(start), 1e-6)


def test_whole_modules_beside_an_adapter_are_compared_with_the_base(base, tmp_path):
    head = weights()[HEAD]
    given = {"base_model.model.lm_head.weight": head + 1, **factors(Q)}
    lora = folder_of(tmp_path / "lora", given, modules_to_save=["lm_head"])
    found = audit.audit_pair(base, lora, "sa_proj")
    assert found.problems[0] == "declared sa_proj, but 1 tensor of head moved"
    move = found.differences[0][1].moves["lm_head.weight"]
    assert move.largest == pytest.approx(1, 1e-6)
    assert audit.audit_pair(base, lora, "sa_proj+head").status == "verified"
    given["base_model.model.lm_head.weight"] = head
    same = folder_of(tmp_path / "same", given, modules_to_save=["lm_head"])
    assert audit.audit_pair(base, same, "sa_proj").status == "verified"
    # From one adapter to the next: by their own heads, or by the base's where one has none.
    assert difference(same, lora).moves.keys() == {"lm_head.weight"}
    plain = folder_of(tmp_path / "plain", factors(Q))
    assert difference(plain, same, base=base).identical
    assert difference(plain, lora, base=base).moves["lm_head.weight"].largest == pytest.approx(1)
    assert difference(plain, lora).moves["lm_head.weight"].largest is None
    torn = folder_of(tmp_path / "torn", factors(Q), modules_to_save=["lm_head"])
    with pytest.raises(CheckpointError, match="modules_to_save names lm_head, of which it holds"):
        difference(base, torn)


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({"lora_alpha": 9}, 4.5),
        ({"lora_alpha": 9, "use_rslora": True}, 9 / np.sqrt(2)),
        ({"alpha_pattern": {r".*layers\.0\.self_attn\.q_proj": 32}}, 16),
        ({"alpha_pattern": {"q_proj": 32, r".*layers\.0\..*": 2}}, 16),
        ({"alpha_pattern": {r"^model\.language_model\.layers\.\d\.self_attn\.\w_proj": 32}}, 16),
        ({"alpha_pattern": {"proj": 32, "layers.1.self_attn.q_proj": 32}}, 2),
    ],
)
def test_alpha_is_found_as_peft_finds_it(base, tmp_path, config, scale):
    tensors = factors(Q)
    a, b = tensors.values()
    (move,) = difference(base, folder_of(tmp_path / "lora", tensors, **config)).moves.values()
    assert move.largest == pytest.approx(scale * np.abs(b @ a).max(), 1e-5)


def test_an_adapter_of_alpha_zero_moves_nothing(base, tmp_path):
    lora = folder_of(tmp_path / "lora", factors(Q), lora_alpha=0)
    found = audit.audit_pair(base, lora, "sa_proj")
    assert (found.status, found.passes) == ("identical", False)


@pytest.mark.parametrize(
    ("tensors", "config", "kind"),
    [
        ({}, {"use_dora": True}, "DoRA (use_dora)"),
        ({f"{PEFT}.{Q}.lora_magnitude_vector": np.ones(6, np.float32)}, {}, "DoRA"),
        ({}, {"init_lora_weights": "pissa_niter_4"}, "init_lora_weights: pissa_niter_4"),
        ({}, {"init_lora_weights": "loftq"}, "init_lora_weights: loftq"),
        ({}, {"trainable_token_indices": [1]}, "LoRA with trained tokens"),
        ({}, {"peft_type": "IA3"}, "IA3"),
        ({}, {"peft_type": "LOHA"}, "LOHA"),
        ({f"{PEFT}.{Q}.lora_E": np.ones((2, 1), np.float32)}, {}, "a tensor base_model"),
    ],
)
def test_what_cannot_be_computed_from_factors_is_never_verified(
    base, tmp_path, tensors, config, kind
):
    lora = folder_of(tmp_path / "lora", factors(Q) | tensors, **config)
    for declared in ("sa_proj", None):
        found = audit.audit_pair(base, lora, declared)
        assert (found.status, found.passes, found.differences) == ("unreadable", False, ())
        assert kind in found.problems[0]
        assert "merge it into its base" in found.problems[0]
    arguments = ["audit", str(base), str(lora), "--component", "sa_proj"]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "400"})
    assert result.exit_code == EXIT_INCOMPATIBLE
    assert "lora: UNREADABLE (declared sa_proj)" in result.stdout


def test_an_unreadable_adapter_in_a_study_does_not_end_its_audit(tmp_path):
    manifest = study(tmp_path)
    folder_of(tmp_path / "dora", factors(Q), use_dora=True)
    manifest.write_text(manifest.read_text().replace("path: '1'", "path: dora"))
    result = CliRunner().invoke(app, ["audit", str(manifest), "--json"])
    assert result.exit_code == EXIT_INCOMPATIBLE
    stages = json.loads(result.stdout)["stages"]
    assert [stage["status"] == "unreadable" for stage in stages] == [True, False, False]
    # What the leaderboard takes from it is not that all is well.
    assert "unreadable" in STATUSES


@pytest.mark.parametrize(
    ("change", "config", "text"),
    [
        (lambda t: t.pop(f"{PEFT}.{Q}.lora_A.weight"), {}, "lora_B.weight has no lora_A beside it"),
        (
            lambda t: t.update({f"{PEFT}.{Q}.lora_A.weight": np.ones((3, 6), np.float32)}),
            {},
            "has factors of 3x6 and 6x2; expected one rank",
        ),
        (lambda t: None, {"lora_alpha": None}, "no usable lora_alpha or alpha_pattern"),
        (lambda t: None, {"alpha_pattern": {"(": 1}}, "no usable lora_alpha or alpha_pattern"),
    ],
)
def test_a_torn_adapter_is_said(base, tmp_path, change, config, text):
    tensors = factors(Q)
    change(tensors)
    with pytest.raises(CheckpointError, match=re.escape(text)):
        difference(base, folder_of(tmp_path / "lora", tensors, **config))


def test_an_adapter_of_another_model_is_broken(base, tmp_path):
    wide = folder_of(tmp_path / "wide", factors(Q, inputs=8))
    found = audit.audit_pair(base, wide)
    assert found.problems == (
        f"1 tensor of other shape: language_model.{Q}.weight is 6x8, was 6x6",
    )
    stray = folder_of(tmp_path / "stray", factors("layers.9.self_attn.q_proj"))
    assert audit.audit_pair(base, stray).problems[0].startswith("1 tensor added: ")


def study(tmp_path: Path, component: str = "sa_proj") -> Path:
    write(tmp_path / "base", weights())
    first = tuned("language_model.model.layers.0.self_attn")
    write(tmp_path / "1", first)
    second = {
        n: t + np.float32(0.5) if "layers.2.self_attn.o" in n else t for n, t in first.items()
    }
    write(tmp_path / "2", second)
    manifest = tmp_path / "checkpoints.yaml"
    manifest.write_text(
        "study: s\nbase: base\nresults: results\nsuite: {targets: [pathvqa, pixmo_count]}\n"
        f"strategies:\n  narrow:\n    component: {component}\n    stages:\n"
        "      - {trained_on: pathvqa, path: '1'}\n"
        "      - {trained_on: pixmo_count, path: '2'}\n"
        "      - {wise_ft: {of: '2', with: '1', alpha: 0.5}, name: mixed}\n"
    )
    return manifest


def test_a_study_is_compared_with_the_base_and_the_stage_before(tmp_path):
    manifest = study(tmp_path)
    result = CliRunner().invoke(app, ["audit", str(manifest), "--json"])
    assert result.exit_code == 0, result.output
    stages = json.loads(result.stdout)["stages"]
    assert [stage["status"] for stage in stages] == ["verified", "verified", "interpolated"]
    assert list(stages[0]["against"]) == ["base"]
    assert len(stages[1]["against"]["base"]["moved"]) == 3
    assert list(stages[1]["against"]["previous"]["moved"]) == [
        "language_model.model.layers.2.self_attn.o_proj.weight"
    ]
    # Kept where the report and the leaderboard look for it.
    kept = tmp_path / "results" / "s"
    assert json.loads((kept / "audit.json").read_text())["passes"] is True
    rows = list(csv.DictReader(io.StringIO((kept / "audit.csv").read_text())))
    assert {row["against"] for row in rows} == {"base", "previous"}
    assert {r["component"] for r in rows if int(r["tensors_moved"])} == {"sa_proj"}


def test_a_study_with_a_wrong_declaration_fails(tmp_path):
    manifest = study(tmp_path, "sa_qkv")
    result = CliRunner().invoke(app, ["audit", str(manifest)], env={"COLUMNS": "200"})
    assert result.exit_code == EXIT_INCOMPATIBLE
    assert "narrow run 0 stage 1: pathvqa: MISMATCH (declared sa_qkv)" in result.stdout
    assert "declared sa_qkv, but 1 tensor of sa_proj moved" in result.stdout


def test_what_audit_cannot_take_is_said(base, tmp_path):
    for arguments, message in (
        ([str(base)], "is a folder; give a manifest, or two checkpoint folders A and B"),
        (["some-study"], "is no manifest; where a study's weights lie"),
    ):
        error = CliRunner().invoke(app, ["audit", *arguments]).exception
        assert message in str(error)
    with pytest.raises(CheckpointError, match="is a whole model and lora an adapter"):
        ones = np.ones((1, 1), np.float32)
        difference(adapter(tmp_path / "lora", ones, ones), base)


def test_weights_alone_are_enough(base, tmp_path):
    """Of any names, without a configuration, in a folder or as files."""
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder, by in zip(folders, (0, 1), strict=True):
        folder.mkdir()
        save_file({"t0": np.ones(3), "t1": np.ones(2) + by}, folder / "weights.safetensors")
    files = [folder / "weights.safetensors" for folder in folders]
    for pair in (folders, files):
        found = difference(*pair)
        assert found.moves.keys() == {"t1"}
        assert found.moves["t1"].largest == 1
    printed = CliRunner().invoke(app, ["audit", *map(str, files)])
    assert printed.exit_code == 0, printed
    assert "1/2" in printed.stdout
    table = CliRunner().invoke(app, ["components", str(folders[0]), "--json"])
    assert [row["component"] for row in json.loads(table.stdout)] == ["other"]
    with pytest.raises(CheckpointError, match="is neither a folder nor a safetensors file"):
        difference(base / "config.json", base)


def test_the_components_table(base):
    result = CliRunner().invoke(app, ["components", str(base), "--json", "--component", "mlp[0:2]"])
    rows = {row["component"]: row for row in json.loads(result.stdout)}
    assert rows["mlp[0:2]"]["tensors"] == 6
    total = sum(np.prod(shape) for shape in HUB.values())
    assert rows["llm"]["share"] == pytest.approx(1 - (16 + 32 + 24 + 6) / total)
    printed = CliRunner().invoke(app, ["components", str(base)]).stdout
    assert "sa_proj" in printed and "%" in printed


def test_layers_are_shown_in_the_components_table(base):
    printed = CliRunner().invoke(app, ["components", str(base), "--component", "sa_proj[last:1]"])
    assert "sa_proj[last:1]" in printed.stdout


def test_a_name_does_nothing_to_the_terminal(base, tmp_path):
    nasty = "evil\x1b[2J\nverified"
    stage = write(tmp_path / "stage", weights() | {nasty: np.ones(2, np.float32)})
    for start, later in ((base, stage), (stage, base)):
        printed = CliRunner().invoke(app, ["audit", str(start), str(later)]).stdout
        assert "evil\\x1b[2J\\nverified" in printed and "\x1b" not in printed
    moved = write(tmp_path / "moved", weights() | {nasty: np.zeros(2, np.float32)})
    found = audit.audit_pair(stage, moved, "sa_proj")
    assert found.problems[1] == "evil\\x1b[2J\\nverified"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_two_gigabytes_in_little_memory(tmp_path):
    """Under 500 MB resident. (What it costs beside plain reading is printed, not asserted.)"""
    block = np.random.default_rng(0).standard_normal((4096, 2048)).astype(np.float16)
    kinds = ["self_attn.q_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
    names = [f"model.layers.{i // 4}.{kinds[i % 4]}.weight" for i in range(119)]
    folders = [write(tmp_path / name, dict.fromkeys(names, block)) for name in "ab"]
    with (folders[1] / "model.safetensors").open("r+b") as stream:
        stream.seek(-2, os.SEEK_END)
        stream.write(b"\0\0")
    # In a process of its own, by its own high-water mark: ru_maxrss would count the parent's.
    program = (
        "import sys; from pathlib import Path; from harness.weights.differences import difference\n"
        "from harness.weights.moves import WORKERS; from resource import RUSAGE_CHILDREN, getrusage\n"
        "found = difference(Path(sys.argv[1]), Path(sys.argv[2]))\n"
        "status = Path('/proc/self/status').read_text()\n"
        "own = int(status.split('VmHWM:')[1].split()[0])\n"
        "print(len(found.moves), own + WORKERS * getrusage(RUSAGE_CHILDREN).ru_maxrss)"
    )
    out = subprocess.run(
        [sys.executable, "-c", program, *map(str, folders)],
        capture_output=True,
        text=True,
        check=True,
    )
    moves, kilobytes = map(int, out.stdout.split())
    assert moves == 1
    assert kilobytes < 500_000
    plain = min(_cpu_seconds(lambda: _read(folders)) for _ in range(3))
    compared = min(_cpu_seconds(lambda: difference(*folders)) for _ in range(3))
    print(f"{kilobytes / 1e3:.0f} MB, {plain:.2f} s to read, {compared:.2f} s to compare (CPU)")


def _read(folders: list[Path]) -> None:
    buffer = bytearray(1 << 23)
    for folder in folders:
        with (folder / "model.safetensors").open("rb", buffering=0) as stream:
            while stream.readinto(buffer):
                pass


def _cpu_seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began
