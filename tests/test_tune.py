"""Tuning changes the declared component and nothing else, and records what it did."""

from __future__ import annotations

import json
import math
import socket
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")

from tiny_models import FAMILIES, MemoryImage, make_checkpoint, noise_image  # noqa: E402

from harness import audit, components  # noqa: E402
from harness.engines.inputs import Inputs  # noqa: E402
from harness.engines.prompts import Prompter  # noqa: E402
from harness.errors import DataError  # noqa: E402
from harness.tune import cost  # noqa: E402
from harness.tune.batches import IGNORED, Collator, Counts, Dataset, Encoder, Example  # noqa: E402
from harness.tune.batches import fingerprint as data_fingerprint  # noqa: E402
from harness.tune.recipe import (  # noqa: E402
    Distillation,
    Lora,
    Recipe,
    RecipeError,
    learning_rates,
    read_record,
)
from harness.tune.sequence import strategy_name  # noqa: E402
from harness.tune.train import tune_stage  # noqa: E402
from harness.tune.trainer import distillation_loss  # noqa: E402
from harness.types import Checkpoint, Decoding, Request  # noqa: E402
from harness.weights.differences import difference  # noqa: E402

pytestmark = pytest.mark.slow

RECIPE = Recipe(learning_rate=1e-3, vision_learning_rate=None, batch_size=4, max_steps=2)
# Outside the path to the loss: features are taken before the last layer (CLIP), or before the
# final norm.
UNUSED = ("post_layernorm", "encoder.layers.2.")


def example(image: MemoryImage, answer: str = "3") -> Example:
    return Example(Request("0", (0, "How many?"), (image,), Decoding()), answer)


SIZES = ((48, 48), (100, 37), (20, 90), (64, 64))
EXAMPLES = [example(noise_image(i, *SIZES[i % 4]), str(i % 5)) for i in range(8)]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    made: dict[str, Path] = {}

    def of(family: str) -> Path:
        if family not in made:
            made[family] = make_checkpoint(tmp_path_factory.mktemp(family), family)
        return made[family]

    return of


def moved(base: Path, stage: Path) -> set[str]:
    return set(difference(base, stage).moves)


EVERY_COMPONENT = (
    *("vision", "projector", "llm", "sa_proj", "sa_qkv", "sa_vo", "mlp", "mlp_gate_up"),
    *("mlp_down", "embeddings", "norms", "head", "sa_proj+mlp_gate_up", "sa_proj[last:1]"),
)
CASES = [
    pytest.param(family, component, marks=() if quick else pytest.mark.slow)
    for family in FAMILIES
    for component in EVERY_COMPONENT
    for quick in [component == "mlp_gate_up" or (family, component) == ("qwen2_5_vl", "vision")]
]


@pytest.mark.parametrize(("family", "component"), CASES)
def test_exactly_the_component_moves(bases, tmp_path, family, component):
    base, stage = bases(family), tmp_path / "stage"
    record = tune_stage(base, component, EXAMPLES, stage, RECIPE)
    found = audit.audit_pair(base, stage, component)
    assert (found.status, found.problems) == ("verified", ())
    change = found.differences[0][1]
    expected = components.names(component, change.tensors)
    reachable = {n for n in expected if family == "qwen2_5_vl" or not any(u in n for u in UNUSED)}
    assert reachable <= set(change.moves) <= expected
    assert set(found.unmoved) == expected - set(change.moves)
    assert 0 < record.trainable_share < 1
    # The prompt is made by the very files that the base's is made of.
    # Trainer's switches stay out of the configuration: one engine serves base and stages.
    for name in ("tokenizer.json", "chat_template.jinja", "config.json"):
        assert (stage / name).read_bytes() == (base / name).read_bytes()


def test_a_stage_is_reused_or_refused_but_never_overwritten(bases, tmp_path):
    base, stage = bases("qwen2_5_vl"), tmp_path / "stage"
    first = tune_stage(base, "norms", EXAMPLES, stage, RECIPE, trained_on="pathvqa")
    assert tune_stage(base, "norms", EXAMPLES, stage, RECIPE) == first == read_record(stage)
    assert first.trained_on == "pathvqa"
    assert (first.samples, first.steps, first.samples_skipped) == (8, 2, 0)
    assert first.answer_tokens == 8 * 2
    with pytest.raises(RecipeError, match="a stage made with another recipe and data; remove it"):
        tune_stage(base, "norms", EXAMPLES[:4], stage, replace(RECIPE, seed=1))
    (tmp_path / "foreign").mkdir()
    with pytest.raises(RecipeError, match="is not a stage of ours; name another"):
        tune_stage(base, "norms", EXAMPLES, tmp_path / "foreign", RECIPE)


def test_a_killed_training_resumes_to_the_same_weights(bases, tmp_path):
    base = bases("qwen2_5_vl")
    recipe = replace(RECIPE, max_steps=6, save_every=2)
    tune_stage(base, "sa_proj", EXAMPLES, tmp_path / "whole", recipe)

    class Killed(Exception):
        pass

    def kill(done: int, total: int, loss: float | None) -> None:
        if done == 5:
            raise Killed

    with pytest.raises(Killed):
        tune_stage(base, "sa_proj", EXAMPLES, tmp_path / "cut", recipe, progress=kill)
    assert not (tmp_path / "cut").exists()
    record = tune_stage(base, "sa_proj", EXAMPLES, tmp_path / "cut", recipe)
    assert (record.resumed_at_step, record.steps) == (4, 6)
    assert difference(tmp_path / "whole", tmp_path / "cut").identical
    assert not list(tmp_path.glob("*.partial")) and not (tmp_path / "cut" / "states").exists()


@pytest.mark.slow
def test_the_seed_decides_the_weights(bases, tmp_path):
    base = bases("qwen2_5_vl")
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        tune_stage(base, "mlp", EXAMPLES, tmp_path / name, replace(RECIPE, seed=seed))
    assert difference(tmp_path / "a", tmp_path / "b").identical
    assert moved(tmp_path / "a", tmp_path / "c")


def test_gradients_add_up_over_micro_batches(bases, tmp_path):
    base = bases("qwen2_5_vl")
    one_step = replace(RECIPE, max_steps=1)
    tune_stage(base, "mlp_down", EXAMPLES, tmp_path / "whole", one_step)
    small = replace(one_step, micro_batch=1, gradient_checkpointing=True)
    tune_stage(base, "mlp_down", EXAMPLES, tmp_path / "small", small)
    apart = difference(tmp_path / "whole", tmp_path / "small").moves.values()
    # Adam's first step is the gradient's sign times 1e-3: equal but for rounding.
    assert all((move.relative_norm or 0) < 1e-3 for move in apart)
    assert moved(base, tmp_path / "small")


def test_lora_leaves_an_adapter_that_goes_on(bases, tmp_path):
    base = bases("llava_onevision")
    recipe = replace(RECIPE, lora=Lora(rank=4, alpha=8, dropout=0.0))
    first, second = tmp_path / "run" / "1", tmp_path / "run" / "2"
    record = tune_stage(base, "mlp", EXAMPLES, first, recipe)
    assert record.trainable_share < 0.2
    tune_stage(first, "mlp", EXAMPLES, second, recipe)
    assert not (second / "model.safetensors").exists()
    config = json.loads((second / "adapter_config.json").read_text())
    assert (second / config["base_model_name_or_path"]).resolve() == base.resolve()
    for start, stage in ((base, first), (base, second), (first, second)):
        found = audit.audit_pair(start, stage, "mlp")
        assert found.status == "verified"
        assert len(found.differences[0][1].moves) == 6
    with pytest.raises(RecipeError, match="norms: has no linear layer that an adapter could"):
        tune_stage(base, "norms", EXAMPLES, tmp_path / "x", recipe)


@pytest.mark.slow
def test_distillation_holds_the_stage_back(bases, tmp_path):
    base = bases("qwen2_5_vl")
    recipe = replace(RECIPE, max_steps=8, learning_rate=3e-3)
    tune_stage(base, "llm", EXAMPLES, tmp_path / "plain", recipe)
    held = replace(recipe, distillation=Distillation(weight=100.0))
    tune_stage(base, "llm", EXAMPLES, tmp_path / "lwf", held)
    logits = {
        name: _answers(path)
        for name, path in (("base", base), ("plain", tmp_path / "plain"), ("lwf", tmp_path / "lwf"))
    }
    far = (logits["plain"] - logits["base"]).abs().mean()
    near = (logits["lwf"] - logits["base"]).abs().mean()
    assert near < far / 2


@torch.no_grad()
def _answers(folder: Path) -> torch.Tensor:
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    batch = Collator(0, Counts())([encoder(folder)(item) for item in EXAMPLES[:4]])
    return model(**{k: v for k, v in batch.items() if k != "labels"}).logits.log_softmax(-1)[:, -3]


def test_distillation_loss_by_hand():
    # One learned token, two words; teacher (1/2, 1/2) at any temperature, student odds e^(x/T).
    labels = torch.tensor([[IGNORED, 1, IGNORED]])
    teacher = torch.zeros(1, 3, 2)
    student = torch.tensor([[[2.0, 0.0], [9.0, -9.0], [5.0, 5.0]]])
    p = 1 / (1 + math.exp(-2.0 / 2))
    kl = 0.5 * math.log(0.5 / p) + 0.5 * math.log(0.5 / (1 - p))
    assert distillation_loss(student, teacher, labels, 2.0).item() == pytest.approx(4 * kl)
    assert distillation_loss(student, teacher, labels, 2.0, 4).item() == pytest.approx(kl)
    assert distillation_loss(student, student, labels, 2.0).item() == pytest.approx(0)


def encoder(folder: Path) -> Encoder:
    place = Checkpoint(path=str(folder), fingerprint="", processor_path=str(folder))
    return Encoder(Inputs(Prompter(place), limit_bytes=0))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_on_the_answer_and_its_end(bases, family):
    encode = encoder(bases(family))
    item = encode(example(noise_image(0), "about 12"))
    tokenizer = encode._inputs.prompter.tokenizer
    learned = item["labels"] != IGNORED
    assert tokenizer.decode(item["labels"][learned]).strip() == f"about 12{tokenizer.eos_token}"
    assert (item["labels"][learned] == item["input_ids"][learned]).all()
    # What stands before is exactly what the engine asks.
    asked = encode._inputs.row(example(noise_image(0)).request, lambda _: True)
    assert (item["input_ids"][~learned] == asked.tokens["input_ids"]).all()


def test_unreadable_pictures_give_way(bases):
    broken = example(MemoryImage(b"GIF"))
    data = Dataset([broken, EXAMPLES[0]], encoder(bases("qwen2_5_vl")))
    assert (data[0]["input_ids"] == data[1]["input_ids"]).all()
    assert data.counts.skipped == 1
    with pytest.raises(DataError, match="no picture of it can be read"):
        Dataset([broken], encoder(bases("qwen2_5_vl")))[0]


def test_ready_tensors_are_padded_and_checked():
    rows = [
        {"input_ids": torch.arange(n), "labels": torch.full((n,), n), "grid": torch.ones(1, 3)}
        for n in (2, 4)
    ]
    counts = Counts()
    batch = Collator(9, counts)(rows)
    assert batch["input_ids"].tolist() == [[0, 1, 9, 9], [0, 1, 2, 3]]
    assert batch["labels"].tolist() == [[2, 2, IGNORED, IGNORED], [4, 4, 4, 4]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert batch["grid"].shape == (2, 3)
    assert (counts.tokens, counts.answer_tokens) == (6, 6)
    with pytest.raises(DataError, match="ready tensors lack labels; got input_ids"):
        Collator(9, counts)([{"input_ids": torch.arange(2)}])
    assert data_fingerprint(rows) != data_fingerprint(rows[::-1])
    with pytest.raises(DataError, match="no samples; nothing to train on"):
        data_fingerprint([])


def test_energy_is_on_record_and_co2_where_the_country_is_known(bases, tmp_path, monkeypatch):
    """With the real codecarbon; no connection is made."""
    monkeypatch.setattr(socket, "socket", None)
    monkeypatch.setattr(socket, "create_connection", None)
    monkeypatch.chdir(tmp_path)
    known = {}
    for country in ("", "FRA", "XXX"):
        monkeypatch.setenv("CODECARBON_COUNTRY_ISO_CODE", country)
        record = tune_stage(
            bases("qwen2_5_vl"), "norms", EXAMPLES, tmp_path / f"s{country}", RECIPE
        )
        assert record.energy_kwh is not None and 0 < record.energy_kwh < 1e-2
        known[country] = record.co2_kg is not None
        assert record == read_record(tmp_path / f"s{country}")
    assert known == {"": False, "FRA": True, "XXX": False}
    assert not list(tmp_path.glob("*.csv"))


def test_without_codecarbon_or_where_it_fails_energy_is_unknown(bases, tmp_path, monkeypatch):
    class Broken:
        """As the real tracker is when it could not start: its methods swallow every error."""

        def __init__(self, **_):
            pass

        def start(self):
            pass

        def stop(self):
            return None

    for name, module in (
        ("gone", None),
        ("broken", SimpleNamespace(OfflineEmissionsTracker=Broken)),
    ):
        monkeypatch.setattr(cost.importlib.util, "find_spec", lambda _, found=module: found)
        monkeypatch.setitem(sys.modules, "codecarbon", module)
        record = tune_stage(bases("qwen2_5_vl"), "norms", EXAMPLES, tmp_path / name, RECIPE)
        assert (record.energy_kwh, record.co2_kg) == (None, None)
        assert record.train_seconds > 0 and record.peak_memory_gb > 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 0.0}, "recipe.learning_rate: got 0.0, expected more than 0"),
        ({"batch_size": 8, "micro_batch": 3}, "got 3, expected a divisor of batch_size 8"),
        ({"epochs": 0, "warmup": 1.0}, "2 problems"),
        ({"epochs": math.inf}, "recipe.epochs: got inf, expected more than 0, and finite"),
        ({"learning_rate": math.nan}, "recipe.learning_rate: got nan, expected more than 0"),
        ({"vision_learning_rate": 0.0}, "recipe.vision_learning_rate: got 0.0, expected more"),
        ({"micro_batch": 0}, "recipe.micro_batch: got 0, expected a divisor of batch_size 16"),
        ({"micro_batch": -4}, "recipe.micro_batch: got -4, expected a divisor"),
    ],
)
def test_recipes_are_checked(change, message):
    with pytest.raises(RecipeError) as error:
        Recipe(**change)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Distillation(weight=-1.0), "distillation.weight: got -1.0, expected more than 0"),
        (lambda: Distillation(weight=0.0), "and finite; leave --lwf out for none"),
        (lambda: Distillation(temperature=0.0), "distillation.temperature: got 0.0, expected"),
        (lambda: Lora(rank=0), "lora.rank: got 0, expected at least 1"),
    ],
)
def test_distillation_and_adapters_are_checked(make, message):
    with pytest.raises(RecipeError) as error:
        make()
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("asked", "lora", "rates"),
    [
        ((None, None), False, (5e-6, 2e-6)),
        ((1e-3, None), False, (1e-3, 4e-4)),
        ((1e-3, 7e-5), False, (1e-3, 7e-5)),
        ((None, 7e-5), False, (5e-6, 7e-5)),
        ((None, None), True, (5e-5, 2e-6)),
        ((5e-4, None), True, (5e-4, 2e-5)),
    ],
)
def test_the_vision_tower_follows_the_learning_rate(asked, lora, rates):
    assert learning_rates(*asked, lora=lora) == rates


def test_the_studys_hyper_parameters_are_the_default():
    recipe = Recipe()
    assert (recipe.epochs, recipe.learning_rate, recipe.vision_learning_rate) == (1, 5e-6, 2e-6)
    assert (recipe.warmup, recipe.weight_decay, recipe.batch_size) == (0.03, 0, 16)
    assert (Lora().rank, Lora().alpha, Lora().dropout) == (256, 32, 0.05)


def test_strategies_are_named_by_what_they_tune():
    assert strategy_name("sa_proj+mlp_gate_up", Recipe()) == "sa_proj+mlp_gate_up"
    assert strategy_name("sa_proj[last:8]", Recipe(lora=Lora())) == "lora_sa_proj-last-8"
    assert strategy_name("llm", Recipe(distillation=Distillation())) == "lwf_llm"
