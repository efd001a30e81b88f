"""What a probe reads, against the full distributions computed independently, on both engines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import make_checkpoint, noise_image

from harness.engines import create
from harness.errors import UserError
from harness.token_classes import read_tokenizer, token_classes
from harness.types import Checkpoint, Decoding, Prediction, Probe, Reading, Request

POSITIONS = 5
TOP_K = 8
REQUESTS = [
    Request(f"{i}-{j}", (0, question), (noise_image(i, 60, 40),), Decoding(POSITIONS))
    for i in range(3)
    for j, question in enumerate(["How many?", "What colour does it have?"])
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    place = tmp_path_factory.mktemp("probe")
    made = [make_checkpoint(place / f"{seed}", "llava_onevision", seed) for seed in (0, 1)]
    return made[0], made[1]


def checkpoint(folder: Path) -> Checkpoint:
    return Checkpoint(str(folder), f"f-{folder.name}", str(folder))


def base_requests() -> list[Request]:
    return [replace(request, probe=Probe(top_k=TOP_K)) for request in REQUESTS]


def forced_requests(base: dict[str, Reading]) -> list[Request]:
    return [
        replace(r, probe=Probe(b.tokens, b.top_ids, b.top_logs))
        for r in REQUESTS
        if (b := base[r.sample_id])
    ]


def readings(predictions: Iterator[Prediction]) -> dict[str, Reading]:
    found = {}
    for p in predictions:
        assert p.status == "ok" and p.reading is not None, p
        found[p.sample_id] = p.reading
    return found


def full_logs(folder: Path, answers: dict[str, Reading]) -> dict[str, Any]:
    """(positions, vocabulary) log-probabilities in float64, from one plain forward over prompt and
    answer, each request alone."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder)
    found = {}
    for request in REQUESTS:
        content = [{"type": "image"}, {"type": "text", "text": request.parts[1]}]
        text = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        inputs = processor(text=[text], images=[request.images[0].decode()], return_tensors="pt")
        answer = torch.tensor([answers[request.sample_id].tokens])
        width = inputs["input_ids"].shape[1]
        inputs["input_ids"] = torch.cat([inputs["input_ids"], answer], 1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        with torch.inference_mode():
            logits = model(**inputs).logits[0, width - 1 : -1]
        found[request.sample_id] = logits.double().log_softmax(-1).numpy()
    return found


def true_kl(p: Any, q: Any) -> float:
    return float((np.exp(p) * (p - q)).sum())


def check(
    folders: tuple[Path, Path],
    base: dict[str, Reading],
    other: dict[str, Reading],
    tolerance: float,
) -> None:
    """Every value of both checkpoints' readings against the whole distributions."""
    classes = token_classes(read_tokenizer(folders[0]))
    logs = [full_logs(folder, base) for folder in folders]
    for name, first in base.items():
        second = other[name]
        assert second.tokens == first.tokens and 1 <= len(first.tokens) <= POSITIONS
        assert first.top1 == first.tokens
        assert set(first.kl_forward) == {0.0} and first.top_ids and not second.top_ids
        for reading, full in ((first, logs[0][name]), (second, logs[1][name])):
            assert reading.top1 == tuple(full.argmax(-1))
            for kind, masses in reading.masses.items():
                expected = np.exp(full)[:, list(classes[kind])].sum(-1)
                assert masses == pytest.approx(expected, abs=tolerance)
        for k, (p, q) in enumerate(zip(logs[0][name], logs[1][name], strict=True)):
            assert first.top_ids[k] == tuple(np.argsort(-p, kind="stable")[:TOP_K])
            ids = list(first.top_ids[k])
            a, b = ([*d[ids], np.logaddexp.reduce(np.delete(d, ids))] for d in (p, q))
            assert first.top_logs[k] == pytest.approx(a, abs=tolerance)
            assert second.kl_forward[k] == pytest.approx(true_kl(*map(np.array, (a, b))),
                                                         abs=10 * tolerance)  # fmt: skip
            assert second.kl_reverse[k] == pytest.approx(true_kl(*map(np.array, (b, a))),
                                                         abs=10 * tolerance)  # fmt: skip
            # Joining tokens into one bucket can only hide a difference.
            assert 0 < second.kl_forward[k] <= true_kl(p, q) + 10 * tolerance
            assert 0 < second.kl_reverse[k] <= true_kl(q, p) + 10 * tolerance
    assert any(a.top1 != b.top1 for a, b in zip(base.values(), other.values(), strict=True))


def probe_both(engine: Any, folders: tuple[Path, Path]) -> Sequence[dict[str, Reading]]:
    engine.load(checkpoint(folders[0]))
    base = readings(engine.generate(base_requests()))
    engine.load(checkpoint(folders[1]))
    return base, readings(engine.generate(forced_requests(base)))


def test_transformers_reads_what_the_full_distributions_say(folders: tuple[Path, Path]):
    base, other = probe_both(create("hf", {"batch_size": 4}), folders)
    check(folders, base, other, 1e-5)


def test_forced_answers_of_several_lengths_do_not_disturb_each_other(folders: tuple[Path, Path]):
    engine = create("hf", {"batch_size": 8})
    base, _ = probe_both(engine, folders)
    cut = {
        name: replace(r, tokens=r.tokens[:n], top_ids=r.top_ids[:n], top_logs=r.top_logs[:n])
        for n, (name, r) in enumerate(base.items(), start=1)
    }
    together = readings(engine.generate(forced_requests(cut)))
    alone: dict[str, Reading] = {}
    for request in forced_requests(cut):
        alone |= readings(engine.generate([request]))
    for name, reading in together.items():
        assert reading.tokens == cut[name].tokens
        assert reading.kl_forward == pytest.approx(alone[name].kl_forward, abs=1e-5)


def test_a_forced_answer_goes_on_past_what_this_checkpoint_ends_with(folders: tuple[Path, Path]):
    from harness.engines.hf import HFEngine

    engine = create("hf", {"batch_size": 8})
    base, other = probe_both(engine, folders)
    name, first = next((n, r) for n, r in base.items() if len(set(r.tokens)) > 2)
    assert isinstance(engine, HFEngine)
    engine._stops = [first.tokens[0]]
    again = readings(engine.generate(forced_requests(base)))
    assert again[name].kl_forward == pytest.approx(other[name].kl_forward, abs=1e-5)


def test_a_free_running_probe_reads_the_answer_that_is_given(folders: tuple[Path, Path]):
    engine = create("hf", {"batch_size": 4})
    engine.load(checkpoint(folders[0]))
    plain = {p.sample_id: p for p in engine.generate(REQUESTS)}
    free = [replace(request, probe=Probe(peaks=True)) for request in REQUESTS]
    for p in engine.generate(free):
        assert p.reading is not None and p.text == plain[p.sample_id].text
        assert len(p.reading.tokens) == p.n_tokens == plain[p.sample_id].n_tokens
        first = plain[p.sample_id].class_mass
        assert first is not None and not p.reading.top_ids and not p.reading.kl_forward
        for name, masses in p.reading.masses.items():
            assert masses[0] == pytest.approx(first[name], abs=1e-5)
            pairs = zip(p.reading.peaks[name], masses, strict=True)
            assert all(0 <= peak <= mass for peak, mass in pairs)


def test_a_forced_answer_is_not_taken_for_the_models_own(folders: tuple[Path, Path]):
    engine = create("hf", {})
    engine.load(checkpoint(folders[0]))
    base = readings(engine.generate(base_requests()))
    (one, *_) = engine.generate(forced_requests(base)[:1])
    assert (one.text, one.finish_reason) == ("", "forced")


@pytest.mark.vllm
def test_vllm_reads_what_the_full_distributions_say(folders: tuple[Path, Path]):
    small = {"max_model_len": 512, "max_num_seqs": 4, "kv_cache_memory_bytes": 100_000_000}
    engine = create("vllm", small)
    try:
        base, other = probe_both(engine, folders)
        free = [replace(request, probe=Probe(peaks=True)) for request in REQUESTS]
        mixed = readings(engine.generate(free))
    finally:
        engine.close()
    check(folders, base, other, 1e-3)
    same = create("hf", {})
    same.load(checkpoint(folders[1]))
    for name, reading in readings(same.generate(free)).items():
        assert mixed[name].tokens == reading.tokens
        for kind, masses in reading.masses.items():
            assert mixed[name].masses[kind] == pytest.approx(masses, abs=1e-3)


@pytest.mark.vllm
def test_where_vllm_cannot_be_probed_it_says_so(monkeypatch: pytest.MonkeyPatch):
    from harness.engines import vllm

    engine = create("vllm", {})
    assert isinstance(engine, vllm.VLLMEngine)
    takes = vllm._takes_processors
    assert takes(engine._options), "vLLM is asked for its first model runner"
    speculating = create("vllm", {"speculative_config": {"method": "ngram"}})
    assert isinstance(speculating, vllm.VLLMEngine) and not takes(speculating._options)
    monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", "1")
    assert not takes(engine._options)
    with pytest.raises(UserError, match="unset VLLM_USE_V2_MODEL_RUNNER"):
        list(engine.generate(base_requests()))


def test_a_small_vocabulary_leaves_one_token_for_the_rest():
    import torch

    from harness.engines.positions import ClassIndex, read_positions

    scores = torch.tensor([[0.0, 1.0, 2.0]])
    (found,) = read_positions(scores, [Probe(top_k=64)], [0], ClassIndex({}))
    assert found["ids"] == [2, 1] and found["top1"] == 2
    assert np.exp(found["logs"]).sum() == pytest.approx(1, abs=1e-5)


def test_another_vocabulary_is_refused():
    import torch

    from harness.engines.positions import ClassIndex, read_positions

    probe = Probe((1,), ((1, 7),), ((-1.0, -1.0, -1.0),))
    with pytest.raises(ValueError, match="not in this model's vocabulary"):
        read_positions(torch.zeros((1, 4)), [probe], [0], ClassIndex({}))


def test_kl_by_hand():
    from harness.engines.positions import kl

    half, most = [np.log(0.5), np.log(0.5)], [np.log(0.9), np.log(0.1)]
    forward, reverse = kl(half, most)
    assert forward == pytest.approx(0.5 * np.log(0.5 / 0.9) + 0.5 * np.log(0.5 / 0.1), abs=1e-6)
    assert reverse == pytest.approx(0.9 * np.log(0.9 / 0.5) + 0.1 * np.log(0.1 / 0.5), abs=1e-6)
    assert kl(half, half) == (0.0, 0.0)


class Letters:
    """A tokenizer whose token k is the k-th letter; 26 is a special token."""

    def decode(self, tokens: list[int], *, skip_special_tokens: bool, **_: object) -> str:
        shown = "" if skip_special_tokens else "<end>"
        return "".join(shown if token == 26 else chr(97 + token) for token in tokens)


@pytest.mark.parametrize(
    ("tokens", "ends", "stop", "specials", "expected"),
    [
        ([0, 1, 2, 3], (), (), False, ("abcd", "length", 4)),
        ([0, 1, 2, 3], (), ("z", ""), False, ("abcd", "length", 4)),
        ([0, 1, 2, 9, 9, 9], (), ("c",), False, ("ab", "stop", 3)),  # the rest is padding
        ([0, 1, 2, 26, 26], (26,), ("bc",), False, ("a", "stop", 3)),  # which may look like an end
        ([0, 1, 26, 9], (26,), ("z",), False, ("ab", "stop", 3)),
        ([0, 26, 9, 9], (), ("e",), True, ("a", "stop", 2)),  # in the name of a special token
        ([2, 9], (), ("c",), False, ("", "stop", 1)),
        ([], (), ("c",), False, ("", "length", 0)),
    ],
)
def test_an_answer_is_as_long_as_it_took_to_stop(
    tokens: list[int], ends: tuple[int, ...], stop: tuple[str, ...], specials: bool, expected: Any
) -> None:
    from harness.engines.decoding import answer_of

    found = answer_of(tokens, ends, Decoding(6, stop), Letters(), specials=specials)
    # What is padded with ordinary tokens in this test is text to the tokenizer.
    assert found == expected
