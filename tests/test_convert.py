"""LLaVA repository checkpoints become transformers folders, checked against the base."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import typer
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from harness.audit import audit_pair
from harness.cli.convert import register
from harness.components import component_of
from harness.errors import CheckpointError
from harness.weights.convert import convert

SHAPES = {
    "image_newline": (4,),
    "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight": (3, 3),
    "multi_modal_projector.linear_1.weight": (4, 3),
    "multi_modal_projector.linear_2.weight": (4, 4),
    "language_model.model.embed_tokens.weight": (10, 4),
    "language_model.model.layers.0.self_attn.q_proj.weight": (4, 4),
    "language_model.lm_head.weight": (10, 4),
}
AUTHORS = {
    "image_newline": "model.image_newline",
    "vision_tower.vision_model": "model.vision_tower.vision_tower.vision_model",
    "multi_modal_projector.linear_1": "model.mm_projector.0",
    "multi_modal_projector.linear_2": "model.mm_projector.2",
    "language_model.model": "model",
    "language_model.lm_head": "lm_head",
}


def author_name(name: str) -> str:
    start = next(start for start in AUTHORS if name.startswith(start))
    return AUTHORS[start] + name.removeprefix(start)


@pytest.fixture
def base(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    folder = tmp_path / "base"
    folder.mkdir()
    tensors = {name: rng.standard_normal(s).astype(np.float16) for name, s in SHAPES.items()}
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(
        json.dumps({"model_type": "llava_onevision", "dtype": "float16"})
    )
    (folder / "tokenizer.json").write_text("{}")
    return folder


def author_stage(base: Path, **change: object) -> Path:
    """The base as the LLaVA repository saves it: fewer token rows, one projection trained."""
    tensors = {author_name(n): t for n, t in load_file(base / "model.safetensors").items()}
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = tensors[name][:8].copy()
    tensors["model.layers.0.self_attn.q_proj.weight"] += 1
    tensors.update(change)
    folder = base.parent / "stage"
    folder.mkdir()
    save_file({n: t for n, t in tensors.items() if t is not None}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "llava_qwen"}))
    return folder


def test_only_what_was_trained_differs_from_the_base(base, tmp_path):
    done = convert(author_stage(base), base, tmp_path / "out")
    assert done.tensors == len(SHAPES)
    assert done.rows_from_base == 4
    trained = "language_model.model.layers.0.self_attn.q_proj.weight"
    assert set(done.parity.moves) == {trained}
    before, after = (load_file(f / "model.safetensors") for f in (base, tmp_path / "out"))
    assert list(after) == list(before)
    assert (after[trained] == before[trained] + 1).all()
    for name in ("config.json", "tokenizer.json"):
        assert (tmp_path / "out" / name).read_bytes() == (base / name).read_bytes()


def test_what_does_not_match_is_said_and_nothing_written(base, tmp_path):
    stage = author_stage(
        base,
        **{
            "model.mm_projector.2.weight": None,
            "model.vision_resampler.x": np.zeros(1, np.float16),
            "model.image_newline": np.zeros(5, np.float16),
        },
    )
    with pytest.raises(CheckpointError) as error:
        convert(stage, base, tmp_path / "out")
    for message in (
        "model.vision_resampler.x: the base has no such tensor",
        "multi_modal_projector.linear_2.weight: missing from the stage",
        "model.image_newline: got F16 [5], expected F16 [4]",
    ):
        assert message in str(error.value)
    assert not (tmp_path / "out").exists()
    with pytest.raises(CheckpointError, match="exists already"):
        convert(stage, base, stage)


def test_a_stage_keeps_its_own_type(base, tmp_path):
    halves = {n: t.astype(np.float32) for n, t in load_file(base / "model.safetensors").items()}
    stage = author_stage(
        base, **{author_name(n): t[:8].copy() if len(t) == 10 else t for n, t in halves.items()}
    )
    done = convert(stage, base, tmp_path / "out")
    assert not done.parity.moves
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "float32"
    after = load_file(tmp_path / "out" / "model.safetensors")
    assert all((after[name] == halves[name]).all() for name in halves)


def test_bfloat16_rounds_to_nearest_even():
    torch = pytest.importorskip("torch")
    from harness.weights.convert import _as_type

    values = np.random.default_rng(0).standard_normal(4096).astype(np.float32)
    expected = torch.from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy()
    assert (_as_type(values, "BF16").view(np.int16) == expected).all()


def test_the_command_says_what_was_trained(base, tmp_path):
    app = typer.Typer()
    register(app)
    arguments = [str(author_stage(base)), "--base", str(base), "--out", str(tmp_path / "out")]
    printed = CliRunner().invoke(app, arguments).stdout
    assert "7 tensors, 4 token rows from the base" in printed
    assert "differs from the base in: sa_proj (1 of 1 tensors)" in printed


@pytest.mark.parametrize(("value", "line"), [(np.nan, 1), (np.inf, 1), (2.0, 0)])
def test_nan_is_said_when_it_is_converted(base, tmp_path, value, line):
    app = typer.Typer()
    register(app)
    stage = author_stage(base, **{"model.image_newline": np.full(4, value, np.float16)})
    arguments = [str(stage), "--base", str(base), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0
    assert result.stdout.count("warning: image_newline of") == line
    assert result.stdout.count("hold NaN or Inf") == line


# With real models -------------------------------------------------------------------------------


def author_format(folder: Path, out: Path, rows: int, *, tied: bool = False) -> Path:
    """A transformers folder as the LLaVA repository would have saved it: its names, two shards with
    an index, no rows for added tokens, tables that old versions saved, no head where it is tied."""
    tensors = {author_name(n): t for n, t in load_file(folder / "model.safetensors").items()}
    for name in {"model.embed_tokens.weight", "lm_head.weight"} & tensors.keys():
        tensors[name] = tensors[name][:rows].copy()
    if tied:
        tensors.pop("lm_head.weight", None)
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(16, np.float32)
    tower = "model.vision_tower.vision_tower.vision_model.embeddings.position_ids"
    tensors[tower] = np.arange(36)[None]
    out.mkdir()
    names = sorted(tensors)
    shards = {f"model-0000{k}-of-00002.safetensors": names[k - 1 :: 2] for k in (1, 2)}
    for shard, inside in shards.items():
        save_file({name: tensors[name] for name in inside}, out / shard)
    index = {name: shard for shard, inside in shards.items() for name in inside}
    (out / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    config = {"model_type": "llava_qwen", "tie_word_embeddings": tied}
    (out / "config.json").write_text(json.dumps(config))
    return out


@pytest.mark.parametrize(
    ("family", "tied"),
    [("llava_onevision", False), ("llava_onevision", True), ("llava_next", False)],
)
def test_a_converted_model_gives_the_very_same_logits(tmp_path, family, tied):
    torch = pytest.importorskip("torch")
    from tiny_models import make_checkpoint, noise_image, rewrite_tensors
    from transformers import AutoModelForImageTextToText, AutoProcessor

    base = make_checkpoint(tmp_path / "base", family, tied=tied)
    tuned = Path(shutil.copytree(base, tmp_path / "tuned"))
    tuned_part = "language_model.model.layers.1.self_attn"
    rewrite_tensors(tuned, lambda n, t: (n, t * 1.25 if tuned_part in n else t))
    stage = author_format(tuned, tmp_path / "stage", rows=256, tied=tied)
    done = convert(stage, base, tmp_path / "out")
    assert {component_of(name) for name in done.parity.moves} == {"sa_proj"}
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    image = noise_image(1, 90, 40).decode()
    inputs = processor(images=[image], text=["<image>\nHow many?"], return_tensors="pt")

    @torch.no_grad()
    def logits(folder: Path):
        model, info = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"]
        return model.eval()(**inputs).logits

    found = logits(tmp_path / "out")
    assert torch.equal(found, logits(tuned))
    assert not torch.equal(found, logits(base))
    assert audit_pair(base, tmp_path / "out", "sa_proj").status == "verified"
