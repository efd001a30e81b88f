"""The probability of token classes where an answer begins, against the full distribution."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_models import make_checkpoint, noise_image

from harness.engines import create
from harness.engines.options import hf_options, vllm_options
from harness.errors import UserError
from harness.token_classes import CLASSES, token_classes
from harness.types import Checkpoint, Decoding, Request

REQUESTS = [
    Request(f"{i}-{j}", (0, question), (noise_image(i, 60, 40),), Decoding(max_new_tokens=n))
    for i in range(3)
    for j, (question, n) in enumerate([("How many?", 2), ("What colour does it have?", 5)])
]
OWN = {"mark": ["?", "!"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("mass") / "a", "llava_onevision")


def checkpoint(folder: Path) -> Checkpoint:
    return Checkpoint(str(folder), "f0", str(folder))


def from_full_logits(folder: Path) -> dict[str, dict[str, float]]:
    """Each request alone, through transformers' own processor and forward."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder)
    classes = token_classes(json.loads((folder / "tokenizer.json").read_text()))
    found = {}
    for request in REQUESTS:
        content = [{"type": "image"}, {"type": "text", "text": request.parts[1]}]
        text = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        picture = request.images[0].decode()
        inputs = processor(text=[text], images=[picture], return_tensors="pt")
        with torch.inference_mode():
            shares = model(**inputs).logits[0, -1].double().softmax(-1)
        found[request.sample_id] = {
            name: float(shares[list(ids)].sum()) for name, ids in classes.items() if ids
        }
    return found


def test_masses_of_transformers_are_those_of_the_full_logits(folder: Path):
    engine = create("hf", {"batch_size": 4, "token_classes": OWN})
    engine.load(checkpoint(folder))
    found = {p.sample_id: p for p in engine.generate(REQUESTS)}
    expected = from_full_logits(folder)
    for name, masses in expected.items():
        got = found[name].class_mass
        assert got is not None and 0 < got["mark"] < 1
        assert {"number", "letter"} <= masses.keys() < got.keys()
        assert {k: got[k] for k in masses} == pytest.approx(masses, abs=1e-5)
    assert len({p.class_mass["number"] for p in found.values() if p.class_mass}) > 1


@pytest.mark.vllm
def test_masses_of_vllm_are_those_of_the_full_logits(folder: Path):
    small = {"max_model_len": 512, "max_num_seqs": 4, "kv_cache_memory_bytes": 100_000_000}
    options = {**small, "token_classes": OWN}
    engine = create("vllm", options)
    try:
        engine.load(checkpoint(folder))
        found = {p.sample_id: p for p in engine.generate(REQUESTS)}
        again = {p.sample_id: p for p in engine.generate(REQUESTS[::-1])}
    finally:
        engine.close()
    for name, masses in from_full_logits(folder).items():
        got, later = found[name].class_mass, again[name].class_mass
        assert got is not None and later is not None and 0 < got["mark"] < 1
        assert {k: got[k] for k in masses} == pytest.approx(masses, abs=1e-3)
        assert dict(later) == pytest.approx(dict(got), abs=1e-4)


def test_the_classes_of_an_engine_are_checked_before_it_starts():
    for options in (hf_options, lambda given: vllm_options(given, ())):
        with pytest.raises(UserError, match=r"engine.token_classes.number: got a name"):
            options({"token_classes": {"number": ["x"]}})
        with pytest.raises(UserError, match="expected names with lists of words"):
            options({"token_classes": {"color": "red"}})
    assert set(CLASSES) == {"number", "letter", "yes_no", "time"}
