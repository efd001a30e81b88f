"""Probes of lm-eval's tasks: what is read of generated answers, and where options begin."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_lm_eval_tasks import NAMES, Nobody, write_study
from typer.testing import CliRunner

from harness import integrity, study
from harness.analysis import JudgeOptions
from harness.cli import app
from harness.errors import ManifestError
from harness.report.content import Wanted, gather
from harness.scoring.study import read_scores
from harness.storage.store import Store
from harness.token_classes import read_tokenizer, token_classes
from harness.types import Kind, Prediction
from tests.lm_eval_tasks import write_tasks
from tests.tiny_models import make_checkpoint

pytestmark = pytest.mark.slow

COMPARED = ("tiny_choice", "tiny_mutual", "tiny_cloze", "tiny_inputs")
GENERATED = ("tiny_generate", "tiny_pictures")
PROBES: tuple[Kind, ...] = ("forced", "free-running")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lm_eval_probe")
    make_checkpoint(folder / "base", "qwen2_5_vl", 1)
    make_checkpoint(folder / "one", "qwen2_5_vl", 2)
    write_tasks(folder / "tasks")
    return folder


def opened(file: Path, *kinds: Kind) -> study.OpenStudy:
    options = study.Options(results=file.parent / "results", diagnostics=kinds)
    return study.open_study(file, options)


@pytest.fixture(scope="module")
def probed(place: Path) -> Path:
    """The folder of a study of every form of task, probed while it was scored."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.diagnostics.FREE_TOKENS", 10)
        asked = opened(write_study(place, NAMES), *PROBES)
        outcome = study.score(asked, Nobody())
    assert not outcome.failures and not outcome.n_failed
    return asked.store.folder


def cells_of(folder: Path, stage: int, kind: str) -> dict[str, dict[str, Prediction]]:
    """task -> its predictions of one kind at a stage."""
    store, record = Store(folder), json.loads((folder / "study.json").read_text())
    row = record["stages"][stage]
    cells = row["diagnostics"][kind] if kind else row["cells"]
    return {
        name.removeprefix("lm_eval:"): store.predictions(name, cell) for name, cell in cells.items()
    }


def test_generated_answers_are_forced_to_where_their_stop_strings_end_them(probed: Path) -> None:
    answers, base, stage = (cells_of(probed, *at) for at in ((0, ""), (0, "forced"), (1, "forced")))
    lengths = set()
    for task in GENERATED:
        assert len(base[task]) == len(stage[task]) == 8
        for name, first in base[task].items():
            read, later = first.reading, stage[task][name].reading
            assert read is not None and later is not None
            assert first.text == answers[task][name].text
            # Greedy: what the base said is what it finds likeliest, padding of its batch left out.
            assert read.tokens == read.top1 and len(read.tokens) == answers[task][name].n_tokens
            assert later.tokens == read.tokens and len(later.kl_forward) == len(read.tokens)
            lengths.add(len(read.tokens))
    assert len(lengths) > 2


def test_compared_options_are_read_where_they_begin(place: Path, probed: Path) -> None:
    """Against the whole distribution after the prompt, computed here."""
    base, stage = cells_of(probed, 0, "forced"), cells_of(probed, 1, "forced")
    classes = token_classes(read_tokenizer(place / "base"))
    rows = [json.loads(line) for line in (place / "tasks" / "test.jsonl").read_text().splitlines()]
    for folder, found in (("base", base), ("one", stage)):
        for i, row in enumerate(rows):
            expected = softmax_after(place / folder, row["question"])
            read = found["tiny_choice"][str(i)].reading
            assert read is not None and len(read.tokens) == 1
            assert read.top1 == (int(expected.argmax()),)
            assert {"number", "letter"} <= set(read.masses)
            for name in read.masses:
                ids = classes[name]
                assert read.masses[name][0] == pytest.approx(expected[list(ids)].sum(), abs=1e-5)
    # One position each, of every prompt that has words: the second half of `tiny_mutual` has none.
    sizes = {task: len(found) for task, found in stage.items()}
    assert {task: sizes[task] for task in COMPARED} == {
        "tiny_choice": 8, "tiny_mutual": 8, "tiny_cloze": 8, "tiny_inputs": 32,
    }  # fmt: skip
    assert set(cells_of(probed, 1, "free-running")) == set(GENERATED)


def softmax_after(checkpoint: Path, text: str) -> Any:
    import torch
    from transformers import AutoModelForImageTextToText, AutoTokenizer

    model = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32).eval()
    ids = AutoTokenizer.from_pretrained(checkpoint)(text, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        return model(input_ids=ids).logits[0, -1].double().softmax(-1).numpy()


def test_drift_and_report_tell_what_was_read(probed: Path) -> None:
    assert {finding.kind for finding in integrity.check(probed)} == {"ok"}
    rates = {name: b.rates for name, b in read_scores(probed, traits=True).benchmarks.items()}
    for name in NAMES:  # one value per document, whichever of its prompts were read
        for measure in ("forced_number_mass", "kl_forward", "top1_agreement"):
            values = rates[f"lm_eval:{name}"][measure]
            assert values.shape == (8, 2) and np.isfinite(values).all()
    # A continuation without a letter is no answer "A".
    cloze = rates["lm_eval:tiny_cloze"]
    assert not cloze["misfit_letter"].any() and "says_a" not in cloze
    done = CliRunner().invoke(app, ["drift", str(probed)])
    assert done.exit_code == 0 and "on the base's own answers: " in done.output
    assert "--choices" not in done.output
    charts = gather(Wanted("own", probed), JudgeOptions()).charts
    assert {"forced", "divergence", "free-running"} <= set(charts)
    assert "choices" not in charts


def test_what_cannot_be_read_is_refused_before_anything_runs(place: Path) -> None:
    file = write_study(place, ["tiny_choice", "tiny_cloze"])
    with pytest.raises(ManifestError) as refused:
        opened(file, "forced", "choices")
    assert str(refused.value) == (
        "--choices: no benchmark of this study asks questions with options: tasks of lm-eval "
        "compare theirs already; leave it out"
    )
    with pytest.raises(ManifestError) as refused:
        opened(file, "free-running")
    assert str(refused.value) == (
        "--probe free-running: nothing here is answered freely: all benchmarks are tasks of "
        "lm-eval that compare options; `--probe forced` reads where options begin"
    )
    # Where one task can be asked so, the others are left out.
    file = write_study(place, ["tiny_choice", "tiny_generate"])
    cells = opened(file, "free-running").plan.cells
    asked = {cell.task for cell in cells if cell.kind == "free-running"}
    assert asked == {"lm_eval:tiny_generate"}


def test_the_chat_of_a_template_is_read_too(place: Path) -> None:
    written = write_study(place, ["tiny_choice", "tiny_generate"], apply_chat_template=True)
    file = written.rename(place / "chat.yaml")
    file.write_text(file.read_text().replace("study: own", "study: chat"))
    asked = opened(file, "forced")
    outcome = study.score(asked, Nobody())
    assert not outcome.failures and not outcome.n_failed
    base = cells_of(asked.store.folder, 0, "forced")
    for found in base.values():
        assert len(found) == 8
        assert all(p.reading and p.reading.tokens == p.reading.top1 for p in found.values())
