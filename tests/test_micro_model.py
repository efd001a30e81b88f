"""The micro model and its packed rows: what is computed packed is what is computed alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import harness.micro
from harness.micro import skills

BASE_FOLDER = Path(harness.micro.__file__).parent / "base"
ALL = (*skills.HELD_OUT, *skills.TARGETS)


@pytest.fixture(scope="module")
def processor() -> Any:
    transformers = pytest.importorskip("transformers")
    return transformers.AutoProcessor.from_pretrained(BASE_FOLDER)


@pytest.fixture(scope="module")
def model() -> Any:
    transformers = pytest.importorskip("transformers")
    return transformers.AutoModelForImageTextToText.from_pretrained(BASE_FOLDER).eval()


def encode(processor: Any, picture: skills.Picture, question: skills.Question) -> Any:
    content = [{"type": "image"}, {"type": "text", "text": question.prompt}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    return processor(text=[text], images=[picture.image], return_tensors="pt")


def test_shipped_processor_is_the_one_that_code_builds(processor: Any) -> None:
    from harness.micro.model import build_processor

    built = build_processor()
    assert processor.tokenizer.get_vocab() == built.tokenizer.get_vocab()
    assert processor.chat_template == built.chat_template
    assert processor.tokenizer.padding_side == "left"
    sizes = processor.image_processor.size
    assert (sizes["shortest_edge"], sizes["longest_edge"]) == (48 * 48, 48 * 48)


def test_shipped_base_has_the_architecture_that_code_builds(model: Any) -> None:
    from harness.micro.model import build_model, build_processor

    built = build_model(build_processor(), seed=0)
    shapes = {name: p.shape for name, p in model.named_parameters()}
    assert shapes == {name: p.shape for name, p in built.named_parameters()}
    assert sum(p.numel() for p in model.parameters()) == 737_088
    assert (BASE_FOLDER / "model.safetensors").stat().st_size < 3_200_000


def test_every_picture_becomes_nine_tokens(processor: Any) -> None:
    from harness.micro.model import IMAGE_TOKENS

    picture = skills.ask("color", np.random.default_rng(0))
    for side in ((48, 48), (640, 480), (30, 200)):
        resized = skills.Picture(picture.image.resize(side), picture.questions)
        ids = encode(processor, resized, picture.questions[0])["input_ids"][0].tolist()
        assert 0 < ids.count(processor.image_token_id) <= IMAGE_TOKENS


def test_packed_rows_give_the_logits_of_single_questions(model: Any, processor: Any) -> None:
    import torch

    from harness.micro.packing import Packer, answers

    rng = np.random.default_rng(5)
    pictures = [skills.scene(rng) for _ in range(2)] + [skills.ask(s, rng) for s in ALL[5:]]
    with torch.inference_mode():
        packed, labels = answers(model, Packer(processor).batch(pictures))
        asked = [(p, q) for p in pictures for q in p.questions]
        assert len(packed) == 2 * len(asked)
        for row, (picture, question) in enumerate(asked):
            alone = model(**encode(processor, picture, question)).logits[0, -1]
            assert processor.tokenizer.decode(labels[2 * row]) == question.answer
            torch.testing.assert_close(packed[2 * row], alone, atol=2e-4, rtol=1e-4)


def test_training_samples_are_prompt_and_answer(processor: Any) -> None:
    import torch

    from harness.micro.packing import IGNORED, Packer

    rng = np.random.default_rng(6)
    picture = skills.ask("count", rng)
    (sample,) = Packer(processor).samples([picture])
    prompt = encode(processor, picture, picture.questions[0])
    n = prompt["input_ids"].shape[1]
    assert sample["input_ids"][:n].tolist() == prompt["input_ids"][0].tolist()
    assert sample["labels"][:n].eq(IGNORED).all()
    said = processor.tokenizer.decode(sample["input_ids"][n:])
    assert said == f"{picture.questions[0].answer} <|im_end|>"
    assert sample["labels"][n:].equal(sample["input_ids"][n:])
    assert sample["mm_token_type_ids"].tolist()[:n] == prompt["mm_token_type_ids"][0].tolist()
    torch.testing.assert_close(sample["pixel_values"], prompt["pixel_values"])


def test_shipped_base_knows_the_held_out_skills(model: Any, processor: Any) -> None:
    """Well above chance on every held-out skill: else there is nothing to forget."""
    import torch

    from harness.micro.packing import Packer, answers

    floors = {"color": 0.8, "shape": 0.8, "presence": 0.75, "choice": 0.7, "size": 0.85}
    packer = Packer(processor)
    for skill, floor in (floors | {"digit": 0.6}).items():
        rng = np.random.default_rng(7)
        pictures = [skills.ask(skill, rng, "test") for _ in range(40)]
        with torch.inference_mode():
            logits, labels = answers(model, packer.batch(pictures))
        right = (logits.argmax(-1) == labels)[::2].float().mean()
        assert right >= floor, skill


def test_the_base_ends_its_answers(model: Any, processor: Any) -> None:
    picture = skills.ask("color", np.random.default_rng(8))
    encoded = encode(processor, picture, picture.questions[0])
    out = model.generate(**encoded, max_new_tokens=6, do_sample=False)
    answer = out[0, encoded["input_ids"].shape[1] :].tolist()
    assert len(answer) == 2
    assert answer[1] == processor.tokenizer.eos_token_id


def test_pretraining_is_a_function_of_its_recipe() -> None:
    pytest.importorskip("torch")
    from harness.micro.pretrain import Cycle, PretrainRecipe, pretrain

    few: dict[str, int] = {"scenes": 2, "singles": 2}
    recipe = PretrainRecipe(cycles=(Cycle(2, 1e-3, easy_steps=1), Cycle(1, 1e-3)), **few)
    losses: list[tuple[int, float]] = []
    first, _ = pretrain(recipe, lambda step, loss: losses.append((step, loss)))
    again, _ = pretrain(recipe)
    other, _ = pretrain(replace(recipe, seed=1))
    name = "model.language_model.layers.0.mlp.up_proj.weight"
    weights = [dict(m.named_parameters())[name] for m in (first, again, other)]
    assert [step for step, _ in losses] == [1, 2, 3]
    assert weights[0].equal(weights[1])
    assert not weights[0].equal(weights[2])


def test_learning_rate_rises_then_falls_to_nothing() -> None:
    pytest.importorskip("torch")
    from harness.micro.pretrain import rate

    rates = [rate(100, 0.05, step) for step in range(100)]
    assert rates[4] == max(rates) == 1.0
    assert rates[:5] == sorted(rates[:5])
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[-1] < 0.001
