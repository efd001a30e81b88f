"""The transformers engine on tiny real checkpoints: nothing but checkpoint and request matters."""

from __future__ import annotations

import inspect
import json
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tiny_models import (
    FAMILIES,
    Family,
    MemoryImage,
    make_checkpoint,
    noise_image,
    rewrite_tensors,
)

from harness.engines import create
from harness.errors import CheckpointError
from harness.types import Checkpoint, Decoding, Prediction, Request

if TYPE_CHECKING:
    from harness.engines.batching import Job
    from harness.engines.hf import HFEngine

Alone = Callable[..., dict[str, Prediction]]
SIZES = [(7, 5), (48, 48), (100, 60), (60, 100), (150, 20)]
QUESTIONS = ["What is it?", "Which of the many colours does this have", "n"]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[Family, str], Path]:
    """Per family: `a` and `b` differ in every tensor; `llm` is `a` with b's language model."""
    from safetensors.torch import load_file

    root = tmp_path_factory.mktemp("models")
    made: dict[tuple[Family, str], Path] = {}
    for family in FAMILIES:
        for seed, name in enumerate("ab"):
            made[family, name] = make_checkpoint(root / family / name, family, seed)
        other = load_file(made[family, "b"] / "model.safetensors")
        made[family, "llm"] = shutil.copytree(made[family, "a"], root / family / "llm")

        def language(name: str, tensor: Any, other: Any = other) -> tuple[str, Any]:
            return name, other[name] if _is_language(name) else tensor

        rewrite_tensors(made[family, "llm"], language)
    return made


def _is_language(name: str) -> bool:
    return not any(word in name for word in ("vision", "visual", "projector", "newline"))


def checkpoint(folder: Path, **more: Any) -> Checkpoint:
    return Checkpoint(str(folder), "unused", str(folder), **more)


def asked(tokens: int = 4) -> list[Request]:
    """Every picture with every question, and one prompt without a picture."""
    decoding = Decoding(max_new_tokens=tokens)
    pictures = [noise_image(i, *size) for i, size in enumerate(SIZES)]
    requests = [
        Request(f"{i}-{j}", (0, question), (picture,), decoding, choices=("A", "B", "yes", "yet"))
        for i, picture in enumerate(pictures)
        for j, question in enumerate(QUESTIONS)
    ]
    return [*requests, Request("text", ("Hello",), (), decoding, choices=("A", "B"))]


def answers(
    engine: HFEngine, folder: Path, requests: Sequence[Request], **more: Any
) -> dict[str, Prediction]:
    engine.load(checkpoint(folder, **more))
    found = list(engine.generate(requests))
    assert len(found) == len(requests)
    return {prediction.sample_id: prediction for prediction in found}


def fresh(**options: Any) -> HFEngine:
    from harness.engines.hf import HFEngine

    engine = create("hf", options)
    assert isinstance(engine, HFEngine)
    return engine


@pytest.fixture(scope="module")
def alone(folders: dict[tuple[Family, str], Path]) -> Alone:
    """What an engine that serves one checkpoint and nothing else answers to `asked`."""

    @cache
    def of(family: Family, name: str, tokens: int = 4) -> dict[str, Prediction]:
        return answers(fresh(), folders[family, name], asked(tokens))

    return of


@pytest.mark.parametrize("family", FAMILIES)
def test_swapped_in_place_answers_like_a_fresh_process(
    family: Family, folders: dict[tuple[Family, str], Path], alone: Alone
) -> None:
    requests = asked()
    swept = fresh()
    first = answers(swept, folders[family, "a"], requests)
    swapped = {name: answers(swept, folders[family, name], requests) for name in ("b", "llm")}
    again = answers(swept, folders[family, "a"], requests)
    assert swept.counts["starts"] == 1
    assert again == first
    assert all(p.status == "ok" for p in first.values())
    for name, found in swapped.items():
        assert found == alone(family, name)
        assert found != first


@pytest.mark.parametrize("family", FAMILIES)
def test_batch_size_and_order_change_nothing(
    family: Family, folders: dict[tuple[Family, str], Path]
) -> None:
    requests = asked()
    together = answers(fresh(batch_size=64), folders[family, "a"], requests)
    shuffled = random.Random(0).sample(requests, len(requests))
    assert answers(fresh(batch_size=1), folders[family, "a"], shuffled) == together
    # A question on its own, with nothing to pad against.
    assert answers(fresh(), folders[family, "a"], requests[3:4]) == {"1-0": together["1-0"]}


def test_second_checkpoint_pays_no_preprocessing_and_no_vision_tower(
    folders: dict[tuple[Family, str], Path],
) -> None:
    for family in FAMILIES:
        engine, requests = fresh(), asked(2)
        answers(engine, folders[family, "a"], requests)
        paid = dict(engine.counts)
        assert paid == {"starts": 1, "preprocessed": len(SIZES), "encoded": len(SIZES)}
        answers(engine, folders[family, "llm"], requests)
        assert engine.counts == paid
        answers(engine, folders[family, "b"], requests)
        assert engine.counts == {**paid, "encoded": 2 * len(SIZES)}


def test_rotary_positions_are_worked_out_once_and_by_value(
    folders: dict[tuple[Family, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches of other prompts, other padding or other picture sizes have positions of their own."""
    engine, requests = fresh(), asked(2)
    first = answers(engine, folders["qwen2_5_vl", "a"], requests)
    memo = engine._live.model.base_model.get_rope_index
    paid = memo.computed
    assert paid > 0
    assert answers(engine, folders["qwen2_5_vl", "a"], requests) == first
    assert memo.computed == paid
    alone = [answers(engine, folders["qwen2_5_vl", "a"], [request]) for request in requests]
    assert {name: found for one in alone for name, found in one.items()} == first
    assert memo.computed > paid
    monkeypatch.setattr("harness.engines.rotary.LIMIT_BYTES", 0)
    forgetful = fresh()
    assert answers(forgetful, folders["qwen2_5_vl", "a"], requests) == first
    assert answers(forgetful, folders["qwen2_5_vl", "a"], requests) == first
    assert forgetful._live.model.base_model.get_rope_index.computed == 2 * paid


def test_nothing_kept_gives_the_same_answers(
    folders: dict[tuple[Family, str], Path], alone: Alone
) -> None:
    poor = fresh(inputs_gb=0, features_gb=0)
    found = answers(poor, folders["llava_onevision", "a"], asked(2))
    assert found == alone("llava_onevision", "a", 2)
    assert poor.counts["preprocessed"] > len(SIZES)


def test_an_architecture_whose_features_cannot_be_told_apart_gets_pixels(
    folders: dict[tuple[Family, str], Path], alone: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from transformers.models.llava_next.modeling_llava_next import LlavaNextModel

    folder, requests = folders["llava_next", "a"], asked(2)
    expected = alone("llava_next", "a", 2)
    real = LlavaNextModel.get_image_features

    def joined(self: Any, *args: Any, **options: Any) -> Any:
        output = real(self, *args, **options)
        output.pooler_output = [torch.cat(list(output.pooler_output))]
        return output

    joined.__signature__ = inspect.signature(real)  # type: ignore[attr-defined]
    monkeypatch.setattr(LlavaNextModel, "get_image_features", joined)
    engine = fresh()
    assert answers(engine, folder, requests) == expected
    assert answers(engine, folder, requests) == expected


def test_a_change_of_the_vision_tower_alone_is_seen(
    folders: dict[tuple[Family, str], Path], tmp_path: Path
) -> None:
    source = folders["qwen2_5_vl", "a"]
    blind = Path(shutil.copytree(source, tmp_path / "blind"))
    rewrite_tensors(blind, lambda n, t: (n, t if _is_language(n) else t * -0.5))
    engine, requests = fresh(), asked()
    before = answers(engine, source, requests)
    after = answers(engine, blind, requests)
    assert after["text"] == before["text"]
    assert sum(after[name] != before[name] for name in before) > len(before) // 2


def test_several_pictures_in_one_prompt(folders: dict[tuple[Family, str], Path]) -> None:
    pictures = (noise_image(1), noise_image(2, 96, 40))
    pair = [
        Request("pair", (0, "and", 1, "differ?"), pictures, Decoding(3)),
        Request("swapped", (1, "and", 0, "differ?"), pictures, Decoding(3)),
        Request("single", (0, "alone?"), pictures[:1], Decoding(3)),
    ]
    for family in FAMILIES:
        found = answers(fresh(), folders[family, "a"], pair)
        assert {p.status for p in found.values()} == {"ok"}, found
        assert found == answers(fresh(batch_size=1), folders[family, "a"], pair)


def test_pictures_side_by_side_in_anothers_prompt(folders: dict[tuple[Family, str], Path]) -> None:
    """The other families take them; what transformers has for Qwen-VL takes them for one."""
    from harness.engines.rotary import SIDE_BY_SIDE

    pictures = (noise_image(1), noise_image(2, 96, 40))
    decoding = Decoding(3)
    pair = [
        Request("pair", (0, 1, "differ?"), pictures, decoding, verbatim=True),
        Request("single", (0, "alone?"), pictures[:1], decoding, verbatim=True),
    ]
    for family in FAMILIES:
        found = answers(fresh(), folders[family, "a"], pair)
        assert found["single"].status == "ok"
        refused = f"the model refused it: {SIDE_BY_SIDE}" if family == "qwen2_5_vl" else ""
        assert found["pair"].reason == refused


def test_trouble_with_one_sample_is_a_failed_prediction(
    folders: dict[tuple[Family, str], Path],
) -> None:
    fine = asked(2)
    bad = [
        Request("torn", (0, "?"), (MemoryImage(b"no picture"),), Decoding(2)),
        Request("long", ("x" * 3000,), (), Decoding(2)),
        Request("mark", ("what is <|image_pad|>?",), (), Decoding(2)),
    ]
    found = answers(fresh(), folders["qwen2_5_vl", "a"], [*bad, *fine])
    assert found["torn"].reason == "the picture cannot be decoded"
    assert found["long"].reason == (
        "the prompt has 3019 tokens and 2 new ones, the model takes 1024"
    )
    assert found["mark"].reason == "the question contains the model's own mark <|image_pad|>"
    assert all(found[request.sample_id].status == "ok" for request in fine)
    assert all(found[request.sample_id].text == "" for request in bad)


def test_scores_that_are_not_numbers_fail(
    folders: dict[tuple[Family, str], Path], tmp_path: Path
) -> None:
    broken = Path(shutil.copytree(folders["qwen2_5_vl", "a"], tmp_path / "nan"))
    rewrite_tensors(broken, lambda n, t: (n, t * float("nan") if "lm_head" in n else t))
    engine = fresh()
    found = answers(engine, broken, asked(2)[:3])
    reasons = {p.reason for p in [*found.values(), *engine.log_likelihood(asked(2)[:3])]}
    assert reasons == {"the model's scores are not numbers (NaN or Inf)"}


def test_out_of_memory_halves_the_batch_and_keeps_the_work(
    folders: dict[tuple[Family, str], Path], alone: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    requests = asked(2)
    expected = alone("qwen2_5_vl", "a", 2)
    engine = fresh()
    engine.load(checkpoint(folders["qwen2_5_vl", "a"]))
    real, sizes = engine._generate_batch, []

    def small(batch: list[Job]) -> list[Prediction]:
        sizes.append(len(batch))
        if len(batch) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(batch)

    monkeypatch.setattr(engine, "_generate_batch", small)
    assert {p.sample_id: p for p in engine.generate(requests)} == expected
    sizes.clear()
    list(engine.generate(requests))
    assert max(sizes) <= 8, "the smaller budget must be remembered"


def test_one_prompt_too_many_for_the_memory(
    folders: dict[tuple[Family, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = fresh()
    engine.load(checkpoint(folders["qwen2_5_vl", "a"]))

    def never(batch: list[Job]) -> list[Prediction]:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(engine, "_generate_batch", never)
    found = list(engine.generate(asked(2)[:2]))
    assert [p.reason for p in found] == ["out of memory with this prompt alone"] * 2


def test_a_prompt_that_the_model_refuses_fails_alone(
    folders: dict[tuple[Family, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, requests = fresh(), asked(2)
    expected = answers(engine, folders["qwen2_5_vl", "a"], requests)
    real = engine._generate_batch

    def picky(batch: list[Job]) -> list[Prediction]:
        if any(job.request.sample_id == "2-1" for job in batch):
            raise ValueError("features and tokens do not match\nin detail")
        return real(batch)

    monkeypatch.setattr(engine, "_generate_batch", picky)
    found = {p.sample_id: p for p in engine.generate(requests)}
    assert found.pop("2-1").reason == "the model refused it: features and tokens do not match"
    assert found == {name: p for name, p in expected.items() if name != "2-1"}


def test_stop_strings_and_lengths(folders: dict[tuple[Family, str], Path]) -> None:
    folder, request = folders["qwen2_5_vl", "a"], asked(12)[4]
    engine = fresh()
    plain = answers(engine, folder, [request])[request.sample_id]
    assert (plain.finish_reason, plain.n_tokens) == ("length", 12)
    mark = plain.text[3]
    stopping = Request("s", request.parts, request.images, Decoding(12, stop=(mark,)))
    stopped = answers(engine, folder, [stopping])["s"]
    assert stopped.finish_reason == "stop"
    assert stopped.text == plain.text[: plain.text.index(mark)]
    assert stopped.n_tokens < 12


def test_choice_scores_are_the_models_own_log_probabilities(
    folders: dict[tuple[Family, str], Path],
) -> None:
    """Against one plain forward pass per choice, written out here."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    for family in FAMILIES:
        folder = folders[family, "a"]
        engine, requests = fresh(), asked()
        engine.load(checkpoint(folder))
        found = {p.sample_id: p for p in engine.log_likelihood(requests)}
        model = AutoModelForImageTextToText.from_pretrained(folder).eval()
        processor = AutoProcessor.from_pretrained(folder)
        for request in [requests[1], requests[7]]:
            content = [{"type": "image"}, {"type": "text", "text": request.parts[1]}]
            text = processor.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True
            )
            scores = []
            for choice in request.choices:
                images = [request.images[0].decode()]
                whole = processor(images=images, text=text + choice, return_tensors="pt")
                n = len(processor.tokenizer(choice, add_special_tokens=False)["input_ids"])
                with torch.no_grad():
                    table = model(**whole).logits[0].log_softmax(-1)
                ids = whole["input_ids"][0]
                scores.append(
                    sum(float(table[i - 1, ids[i]]) for i in range(len(ids) - n, len(ids)))
                )
            assert found[request.sample_id].choice_scores == pytest.approx(scores, abs=2e-5)
        assert len(found["text"].choice_scores or ()) == 2


def test_a_partial_or_foreign_checkpoint_is_refused(
    folders: dict[tuple[Family, str], Path], tmp_path: Path
) -> None:
    import torch

    source = folders["llava_next", "a"]
    first = fresh()
    first.load(checkpoint(source))
    newline, head = "image_newline", "language_model.lm_head.weight"
    lacking = Path(shutil.copytree(source, tmp_path / "lacking"))
    rewrite_tensors(lacking, lambda n, t: None if n == newline else (n, t))
    renamed = Path(shutil.copytree(source, tmp_path / "renamed"))
    rewrite_tensors(renamed, lambda n, t: ("image_newlime" if n == newline else n, t))
    narrow = Path(shutil.copytree(source, tmp_path / "narrow"))
    rewrite_tensors(narrow, lambda n, t: (n, t[:-1] if n == head else t))
    whole = Path(shutil.copytree(source, tmp_path / "whole"))
    rewrite_tensors(whole, lambda n, t: (n, t.to(torch.int8) if n == newline else t))
    said = {
        lacking: "model.image_newline: missing from the checkpoint",
        renamed: "image_newlime: the model has no such tensor",
        narrow: f"{head}: shape 260x64, expected 261x64",
        whole: "image_newline: type I8, expected torch.float32",
    }
    for folder, text in said.items():
        with pytest.raises(CheckpointError, match=text.replace(".", r"\.")) as swap:
            first.load(checkpoint(folder))
        assert str(folder) in str(swap.value)
        with pytest.raises(RuntimeError, match="no checkpoint is loaded"):
            list(first.generate(asked()))
    for folder in (lacking, renamed):
        with pytest.raises(CheckpointError):
            fresh().load(checkpoint(folder))
    answers(first, source, asked(2)[:1])


def test_tied_embeddings_and_both_key_layouts(tmp_path: Path) -> None:
    a = make_checkpoint(tmp_path / "a", "llava_onevision", 0, tied=True)
    b = make_checkpoint(tmp_path / "b", "llava_onevision", 1, tied=True, keys="native")
    requests, engine = asked()[::4], fresh()
    answers(engine, a, requests)
    assert answers(engine, b, requests) == answers(fresh(), b, requests)
    assert engine.counts["starts"] == 1
    torn = Path(shutil.copytree(a, tmp_path / "torn"))
    from safetensors.torch import load_file, save_file

    tensors = load_file(torn / "model.safetensors")
    embedding = tensors["language_model.model.embed_tokens.weight"]
    tensors["language_model.lm_head.weight"] = embedding + 1
    save_file(tensors, torn / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="though the configuration ties them"):
        engine.load(checkpoint(torn))


def test_another_architecture_starts_a_second_model(
    folders: dict[tuple[Family, str], Path], alone: Alone
) -> None:
    engine, requests = fresh(), asked(2)[:3]
    for family in FAMILIES:
        expected = alone(family, "a", 2)
        found = answers(engine, folders[family, "a"], requests)
        assert found == {name: expected[name] for name in found}
    assert engine.counts["starts"] == len(FAMILIES)


def test_interpolated_weights(folders: dict[tuple[Family, str], Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file

    a, b, llm = (folders["qwen2_5_vl", name] for name in ("a", "b", "llm"))
    other = load_file(b / "model.safetensors")
    mixed = Path(shutil.copytree(a, tmp_path / "mixed"))
    rewrite_tensors(mixed, lambda n, t: (n, t + 0.25 * (other[n] - t)))
    requests, engine = asked(), fresh()
    expected = answers(fresh(), mixed, requests)
    assert answers(engine, a, requests, blend=((str(b), 0.25),)) == expected
    assert answers(engine, a, requests, blend=((str(b), 0.25),)) == expected
    # Equal vision towers stay equal bit by bit, so nothing is encoded again.
    answers(engine, a, requests)
    paid = engine.counts
    answers(engine, a, requests, blend=((str(llm), 0.3),))
    assert engine.counts == paid


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_ends_of_an_interpolation_are_the_checkpoints_themselves(
    share: float, folders: dict[tuple[Family, str], Path]
) -> None:
    import torch

    a, b = (folders["qwen2_5_vl", name] for name in "ab")
    requests, engine, end = asked(), fresh(), fresh()
    found = answers(engine, a, requests, blend=((str(b), share),))
    assert found == answers(end, b if share else a, requests)
    mine, theirs = (e._live.model.state_dict() for e in (engine, end) if e._live)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_blended_is_exact_where_it_must_be(name: str) -> None:
    import torch

    from harness.engines.blending import blended

    dtype = getattr(torch, name)
    draw = torch.Generator().manual_seed(0)
    # Magnitudes so far apart that w + (o - w) is not o.
    w = (torch.randn(5000, generator=draw) * 1e3).to(dtype)
    o = (torch.randn(5000, generator=draw) * 1e-3).to(dtype)
    assert torch.equal(blended([w, o], [0.0]).to(dtype), w)
    assert torch.equal(blended([w, o], [1.0]).to(dtype), o)
    for share in (0.1, 0.5, 0.9):
        assert torch.equal(blended([w, w.clone()], [share]).to(dtype), w)
        wanted = w.double() + share * (o.double() - w.double())
        assert torch.allclose(blended([w, o], [share]).double(), wanted, rtol=1e-4, atol=1e-6)


def test_a_peft_adapter_is_merged(folders: dict[tuple[Family, str], Path], tmp_path: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText

    base = folders["qwen2_5_vl", "a"]
    model = AutoModelForImageTextToText.from_pretrained(base)
    config = LoraConfig(
        r=4, target_modules=r".*language_model.*(q|v)_proj", init_lora_weights=False
    )
    torch.manual_seed(0)
    tuned = get_peft_model(model, config)
    tuned.save_pretrained(tmp_path / "adapter")
    merged = tuned.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    for file in base.iterdir():
        if not (tmp_path / "merged" / file.name).exists():
            shutil.copy(file, tmp_path / "merged")
    requests, engine = asked(), fresh()
    plain = answers(engine, base, requests)
    adapted = answers(engine, base, requests, adapter=str(tmp_path / "adapter"))
    assert adapted == answers(fresh(), tmp_path / "merged", requests) != plain
    assert answers(engine, base, requests) == plain
    torn = Path(shutil.copytree(tmp_path / "adapter", tmp_path / "torn"))
    from safetensors.torch import load_file, save_file

    weights = load_file(torn / "adapter_model.safetensors")
    save_file(dict(list(weights.items())[1:]), torn / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="missing from the adapter"):
        engine.load(checkpoint(base, adapter=str(torn)))


def tiny_net() -> Any:
    import torch

    torch.manual_seed(0)
    return torch.nn.ModuleDict(
        {name: torch.nn.Linear(4, 4) for name in ("q_proj", "v_proj", "lm_head")}
    )


@pytest.mark.parametrize(
    ("kind", "settings", "lost"),
    [
        ("LoraConfig", {}, "q_proj.lora_B"),
        ("LoraConfig", {"use_dora": True}, "q_proj.lora_magnitude_vector"),
        ("LoraConfig", {"modules_to_save": ["lm_head"]}, "lm_head.weight"),
        ("LoHaConfig", {}, "q_proj.hada_"),
        ("LoKrConfig", {}, "q_proj.lokr_"),
        ("IA3Config", {"feedforward_modules": []}, "q_proj.ia3_l"),
        ("AdaLoraConfig", {"total_step": 9}, "q_proj.lora_E"),
    ],
)
def test_a_torn_adapter_of_any_kind_is_refused_and_a_whole_one_is_not(
    tmp_path: Path, kind: str, settings: dict[str, Any], lost: str
) -> None:
    import peft
    import torch
    from safetensors.torch import load_file, save_file

    from harness.engines.adapters import merge_adapter

    config = getattr(peft, kind)(target_modules=["q_proj", "v_proj"], **settings)
    tuned = peft.get_peft_model(tiny_net(), config)
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter += 0.1 * parameter.requires_grad
    tuned.save_pretrained(tmp_path)
    wanted = tuned.merge_and_unload().state_dict()
    live = tiny_net()
    merge_adapter(live, tmp_path)
    assert all(torch.allclose(live.state_dict()[n], t, atol=1e-6) for n, t in wanted.items())
    file = tmp_path / "adapter_model.safetensors"
    kept = {name: tensor for name, tensor in load_file(file).items() if lost not in name}
    save_file(kept, file)
    live = tiny_net()
    with pytest.raises(CheckpointError, match=f"{lost}.*: missing from the adapter"):
        merge_adapter(live, tmp_path)
    start = tiny_net().state_dict()
    assert all(torch.equal(start[name], tensor) for name, tensor in live.state_dict().items())


def test_generation_config_of_a_checkpoint_cannot_bend_greedy_decoding(
    folders: dict[tuple[Family, str], Path], tmp_path: Path
) -> None:
    source = folders["qwen2_5_vl", "a"]
    bent = Path(shutil.copytree(source, tmp_path / "bent"))
    file = bent / "generation_config.json"
    config = json.loads(file.read_text())
    config.update(repetition_penalty=5.0, do_sample=True, temperature=2.0, no_repeat_ngram_size=1)
    file.write_text(json.dumps(config))
    requests = asked(8)
    assert answers(fresh(), bent, requests) == answers(fresh(), source, requests)


def test_batches_respect_both_limits_and_decoding() -> None:
    import torch

    from harness.engines.batching import Job, batches
    from harness.engines.inputs import Row

    def job(name: str, length: int, tokens: int = 4) -> Job:
        row = Row({"input_ids": torch.zeros(length, dtype=torch.long)}, {}, "", 0, None)
        return Job(Request(name, (), (), Decoding(tokens)), row)

    jobs = [job(f"{i}", 10 + i) for i in range(20)] + [job("other", 10, tokens=9), job("huge", 900)]
    cut = list(batches(jobs, 8, lambda: 200))
    assert sorted(j.request.sample_id for b in cut for j in b) == sorted(
        j.request.sample_id for j in jobs
    )
    for batch in cut:
        longest = max(j.row.length for j in batch)
        assert len(batch) <= 8
        assert len({j.request.decoding for j in batch}) == 1
        assert len(batch) == 1 or len(batch) * (longest + 4) <= 200
