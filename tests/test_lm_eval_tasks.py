"""lm-eval's tasks in our sweep: what is asked, what is refused, and lm-eval's own numbers."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image as PILImage
from rich.console import Console
from typer.testing import CliRunner

from harness import study
from harness.analysis.judge import judge
from harness.analysis.matrix import Drift, Judged, scorer_of
from harness.analysis.options import JudgeOptions
from harness.analysis.scores import BenchmarkScores, StudyScores
from harness.cli import app
from harness.errors import DataError, ManifestError, ResultsError, UserError
from harness.lmeval import asking, graded
from harness.lmeval.headline import as_number, headline
from harness.lmeval.library import Chat
from harness.lmeval.settings import LmEvalSettings
from harness.manifest import check_manifest
from harness.report.tables import print_judgement
from harness.report.view import View
from harness.scoring.study import choosing_scores, read_scores
from harness.storage.store import Store, folder_name
from harness.types import HELD_OUT_MEAN, OWN_METRIC, Sample, Stage, StageKey
from tests.lm_eval_tasks import run_lm_eval, write_tasks
from tests.tiny_models import make_checkpoint

NAMES = [
    "tiny_generate", "tiny_choice", "tiny_mutual", "tiny_cloze", "tiny_inputs", "tiny_pictures",
]  # fmt: skip


class Nobody:
    """A watch that looks away."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


def write_study(folder: Path, names: list[str], base: str = "base", **lm_eval: Any) -> Path:
    written = {
        "study": "own",
        "base": {"path": base},
        "suite": {
            "held_out": [f"lm_eval:{name}" for name in names],
            "lm_eval": {"include_path": "tasks", **lm_eval},
        },
        "strategies": {"llm": {"stages": [{"path": "one"}]}},
    }
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(written))
    return file


def score(file: Path) -> study.OpenStudy:
    opened = study.open_study(file, study.Options(results=file.parent / "results"))
    outcome = study.score(opened, Nobody())
    assert not outcome.failures
    assert not outcome.n_failed
    return opened


# --- the same numbers as lm-eval ---------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lm_eval")
    make_checkpoint(folder / "base", "qwen2_5_vl", 1)
    make_checkpoint(folder / "one", "qwen2_5_vl", 2)
    write_tasks(folder / "tasks")
    return folder


def raw_answers(store: Store, name: str, cell: str, document: object) -> list[Any]:
    """Our answers to a document in the order of lm-eval's requests."""
    found: list[Any] = []
    for key, p in store.predictions(name, cell).items():
        if key.split(".")[0] == str(document):
            assert p.status == "ok"
            if p.choice_scores is None:
                found.append(p.text)
            else:
                assert p.choice_greedy is not None
                found += zip(p.choice_scores, p.choice_greedy, strict=True)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("template", [False, True])
def test_answers_and_scores_are_those_of_lm_eval_itself(place: Path, template: bool) -> None:
    file = write_study(place, NAMES, apply_chat_template=template)
    score(file)
    store = Store(place / "results" / "own")
    scores = read_scores(store.folder)
    record = json.loads((store.folder / "study.json").read_text())
    more = {"apply_chat_template": True, "fewshot_as_multiturn": True} if template else {}
    compared = 0
    for j, stage in enumerate(("base", "one")):
        theirs = run_lm_eval(place / stage, place / "tasks", NAMES, **more)
        for name in NAMES:
            bench = scores.benchmarks[f"lm_eval:{name}"]
            metric, _, chosen = bench.metric.partition(",")
            rows = [row for row in theirs[name] if row["filter"] == chosen]
            assert bench.values[OWN_METRIC][:, j].tolist() == [float(r[metric]) for r in rows]
            cell = record["stages"][j]["cells"][bench.benchmark]
            kept = graded.read(store, bench.benchmark, cell, grading(record, bench.benchmark))
            for row in theirs[name]:
                for key in row["metrics"]:
                    number = as_number(row[key])
                    unit = kept.values.get(f"{key},{row['filter']}", {}).get(str(row["doc_id"]))
                    assert unit == (None if number is None else pytest.approx(number, abs=1e-4))
            for row in rows:
                ours = raw_answers(store, bench.benchmark, cell, row["doc_id"])
                for mine, response in zip(ours, row["resps"], strict=True):
                    compared += 1
                    if isinstance(mine, str):
                        assert mine == response[0]
                    else:
                        assert mine[0] == pytest.approx(response[0][0], abs=1e-4)
                        assert mine[1] == response[0][1]
    assert compared == 2 * (8 + 32 + 64 + 8 + 32 + 8)


def grading(record: dict[str, Any], name: str) -> str:
    return next(str(row["grading"]) for row in record["benchmarks"] if row["name"] == name)


@pytest.mark.slow
def test_a_sweep_with_nothing_owed_needs_no_lm_eval(place: Path) -> None:
    """Neither planning, nor judging, nor the report imports lm-eval or torch."""
    file = write_study(place, ["tiny_group"])
    score(file)
    code = f"""
import sys
for name in ("lm_eval", "torch", "transformers", "datasets"):
    sys.modules[name] = None
from harness.cli import app
from typer.testing import CliRunner
runner = CliRunner()
for words in (["score", {str(file)!r}, "--results", {str(place / "results")!r}],
              ["compare", "own", "--results", {str(place / "results")!r}]):
    done = runner.invoke(app, words)
    assert not done.exit_code, (words, done.output, done.exception)
    print(done.output)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert not done.returncode, done.stderr
    assert "lm_eval:tiny_generate" in done.stdout or "held-out" in done.stdout


@pytest.mark.slow
def test_a_changed_metric_grades_again_without_a_model(place: Path) -> None:
    file = write_study(place, ["tiny_generate"])
    opened = score(file)
    before = read_scores(opened.store.folder).benchmarks["lm_eval:tiny_generate"]
    code = place / "tasks" / "code.py"
    kept = code.read_text()
    try:
        code.write_text(kept.replace("len(set(gold) & set(answer))", "0.5"))
        again = study.open_study(file, study.Options(results=place / "results"))
        assert not any(cell.owed for cell in again.plan.cells)
        # lm-eval holds the module that it imported, so another process grades.
        words = [sys.executable, "-m", "harness", "score", str(file), "--results"]
        done = subprocess.run([*words, str(place / "results")], capture_output=True, text=True)
        assert not done.returncode, done.stderr
        after = read_scores(opened.store.folder).benchmarks["lm_eval:tiny_generate"]
    finally:
        code.write_text(kept)
    assert before.signatures == after.signatures
    assert not np.array_equal(before.values[OWN_METRIC], after.values[OWN_METRIC])


@pytest.mark.slow
def test_lm_eval_tasks_are_judged_like_any_other(place: Path) -> None:
    opened = score(write_study(place, ["tiny_generate", "tiny_inputs"], num_fewshot=1))
    scores = read_scores(opened.store.folder)
    assert [b.role for b in scores.benchmarks.values()] == ["held_out", "held_out"]
    judged = judge(scores, JudgeOptions(scorer="strict"))
    rows = judged.deltas[judged.deltas["benchmark"] == "lm_eval:tiny_inputs"]
    assert rows["delta_pp"].notna().all()
    assert rows["ci_low_pp"].notna().all()
    signature = scores.benchmarks["lm_eval:tiny_generate"].signatures[0]
    for part in ("lm_eval:0.4", "num_fewshot:1", "chat_template:no", "task_version:1.0"):
        assert part in signature
    without = graded.file_of(opened.store, "lm_eval:tiny_inputs", opened.plan.cells[1].id)
    without.unlink()
    with pytest.raises(ResultsError, match="not graded yet; run `forgeteval score`"):
        read_scores(opened.store.folder)


# --- judged --------------------------------------------------------------------------------------


@pytest.mark.parametrize("scorer", ["strict", "lenient", OWN_METRIC])
def test_its_own_metric_stands_for_every_scorer(scorer: str) -> None:
    """A benchmark that lm-eval graded stays in the study, whatever the others are judged by."""
    key = StageKey("base", "0", 0)
    values = np.array([[1.0], [0.0], [0.5], [0.5]])

    def bench(name: str, scorers: dict[str, Any]) -> BenchmarkScores:
        return BenchmarkScores(
            benchmark=name, role="held_out", metric="m", columns=(key,), values=scorers,
            sample_ids=np.array(list("abcd"), object), groups=np.arange(4), weights=np.ones(4),
            chance=np.zeros(4), status=np.ones((4, 1), np.uint8), unparsed=np.zeros((4, 1), bool),
        )  # fmt: skip

    scores = StudyScores(
        study="s",
        base_model="b",
        stages=(Stage(key, "base"),),
        benchmarks={
            "ours": bench("ours", {"strict": values, "lenient": values}),
            "theirs": bench("theirs", {OWN_METRIC: values}),
        },
    )
    assert scorer_of(scores, scorer) == scorer
    judged = Judged(scores, scorer)
    assert judged.mean("theirs", key) == 0.5
    assert np.isnan(judged.mean("ours", key)) == (scorer == OWN_METRIC)
    assert np.isnan(Drift(scores).mean("theirs", key))


def test_a_mixed_study_shows_bases_and_names_scorers(tmp_path: Path) -> None:
    """One benchmark of ours and one that lm-eval graded: each by its own, in tables and files."""
    base, one = Stage(StageKey("base", "0", 0), "base"), Stage(StageKey("llm", "0", 1), "one")
    chance = np.random.default_rng(0)

    def bench(name: str, scorer: str) -> BenchmarkScores:
        values = (chance.random((40, 2)) < [0.75, 0.5]).astype(float)
        return BenchmarkScores(
            benchmark=name, role="held_out", metric="m", columns=(base.key, one.key),
            sample_ids=np.arange(40).astype(str).astype(object), groups=np.arange(40),
            weights=np.ones(40), chance=np.zeros(40), status=np.ones((40, 2), np.uint8),
            unparsed=np.zeros((40, 2), bool), values={scorer: values},
        )  # fmt: skip

    benches = {
        "ours": bench("ours", "strict"),
        "lm_eval:theirs": bench("lm_eval:theirs", OWN_METRIC),
    }
    judged = judge(StudyScores("s", "b", (base, one), benches))
    means = {
        name: 100 * b.values[b.judged_by("strict")][:, 0].mean() for name, b in benches.items()
    }
    rows = judged.deltas.drop_duplicates(["benchmark", "scorer"])
    assert dict(zip(rows.benchmark, rows.scorer, strict=True)) == {
        "ours": "strict", "lm_eval:theirs": OWN_METRIC, HELD_OUT_MEAN: "strict",
    }  # fmt: skip
    assert View(judged).base_held_out_pct == pytest.approx(np.mean(list(means.values())))
    console = Console(width=80, record=True, file=io.StringIO())
    print_judgement(console, judged)
    shown = " ".join(console.export_text().split())
    assert "scorer strict, lm_eval" in shown
    for mean in means.values():
        assert f"{mean:.1f}" in shown


# --- what a manifest may say -------------------------------------------------------------------


def manifest(**suite: Any) -> dict[str, Any]:
    return {"study": "s", "base": "b", "suite": {"held_out": ["lm_eval:gsm8k"], **suite}}


def check(raw: dict[str, Any], folder: Path) -> Any:
    return check_manifest(raw, "m.yaml", folder, check_paths=False)


def test_settings_are_read(tmp_path: Path) -> None:
    raw = manifest(lm_eval={"include_path": "mine", "num_fewshot": {"gsm8k": 5, "mmlu": 2}})
    settings = check(raw, tmp_path).suite.lm_eval
    assert settings.folders(tmp_path) == [tmp_path / "mine"]
    assert settings.shots("gsm8k", "gsm8k") == 5
    assert settings.shots("mmlu_anatomy", "mmlu") == 2
    assert settings.shots("arc_easy", "arc_easy") is None
    assert not settings.multiturn
    assert LmEvalSettings(apply_chat_template=True).multiturn


@pytest.mark.parametrize(
    ("suite", "message"),
    [
        ({"held_out": ["lm_eval:"]}, "expected lm_eval: and the name of a task or a group"),
        ({"held_out": ["lm_eval:../x"]}, "expected lm_eval: and the name of a task or a group"),
        ({"lm_eval": {"fewshot": 5}}, "suite.lm_eval.fewshot: unknown key"),
        ({"lm_eval": {"num_fewshot": -1}}, "suite.lm_eval.num_fewshot"),
        ({"lm_eval": {"fewshot_as_multiturn": True}}, "needs `apply_chat_template: true`"),
    ],
)
def test_a_wrong_suite_is_refused(suite: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ManifestError) as error:
        check(manifest(**suite), tmp_path)
    assert message in str(error.value)


def test_a_name_becomes_a_folder() -> None:
    assert folder_name("lm_eval:tmmluplus_education_(profession_level)") == (
        "lm_eval+tmmluplus_education_(profession_level)"
    )
    assert folder_name("lm_eval:org/task") == "lm_eval+org+task"


# --- what is asked -----------------------------------------------------------------------------


def instance(*arguments: Any, kind: str = "loglikelihood", document: int = 0, idx: int = 0) -> Any:
    return SimpleNamespace(
        request_type=kind, args=arguments, doc_id=document, idx=idx, doc={}, repeats=1
    )


def loaded(*instances: Any, target: Any = 0) -> Any:
    task = SimpleNamespace(doc_to_target=lambda doc: target)
    return SimpleNamespace(name="t", task=task, instances=list(instances))


def test_options_after_one_prompt_are_one_request() -> None:
    asked = asking.ask(loaded(*(instance("2 + 2 =", f" {n}", idx=n) for n in range(30)), target=4))
    (request,) = asked.requests
    assert request.verbatim
    assert request.parts == ("2 + 2 =",)
    assert request.choices == tuple(f" {n}" for n in range(30))
    assert asked.samples[0].answers == ("E",)
    assert asked.samples[0].chance == pytest.approx(1 / 30)


def test_prompts_that_differ_are_requests_of_their_own_in_one_unit() -> None:
    asked = asking.ask(loaded(instance("a", " x"), instance("", " x", idx=1)))
    assert [request.sample_id for request in asked.requests] == ["0", "0.1"]
    assert {sample.doc["unit"] for sample in asked.samples} == {"0"}


def test_pictures_stand_where_the_marks_are() -> None:
    picture = PILImage.new("RGBA", (3, 2), (10, 20, 30, 0))
    settings = {"until": "\n", "max_gen_toks": 7}
    asked = asking.ask(
        loaded(
            instance(
                "one <image> two<image>", settings, {"visual": [picture, picture]},
                kind="generate_until",
            )
        )
    )  # fmt: skip
    (request,) = asked.requests
    assert request.parts == ("one ", 0, " two", 1)
    assert (request.decoding.max_new_tokens, request.decoding.stop) == (7, ("\n",))
    assert request.images[0].sha256 == request.images[1].sha256
    assert request.images[0].decode().getpixel((0, 0)) == (10, 20, 30)


def test_an_empty_stop_string_ends_an_answer_after_a_token() -> None:
    settings = {"until": ["", "\n"], "max_gen_toks": 7}
    (request,) = asking.ask(loaded(instance("q", settings, kind="generate_until"))).requests
    assert (request.decoding.max_new_tokens, request.decoding.stop) == (1, ("\n",))


def test_a_chat_keeps_its_turns() -> None:
    chat = Chat("shown")
    chat.turns = (("system", "Be brief."), ("user", "Hi"), ("assistant", "Answer:"))
    (request,) = asking.ask(loaded(instance(chat, {}, kind="generate_until"))).requests
    assert request.parts == ("Be brief.", "Hi", "Answer:")
    assert request.turns == (("system", 1), ("user", 1), ("assistant", 1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("q", {"do_sample": True}), "asks for sampled answers"),
        (("q", {"temperature": 0.7}), "asks for sampled answers"),
        (("q", {"num_beams": 4}), "asks for num_beams, which changes greedy answers"),
        (("q", {}, {"visual": [PILImage.new("L", (2, 2))]}), "1 pictures, and 0 marks <image>"),
        (("q <image>", {}, {"visual": ["a.png"]}), "doc_to_image gave str"),
        (("q", {}, {"audio": [1]}), "has sound"),
    ],
)
def test_what_cannot_be_asked_is_named(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(DataError) as error:
        asking.ask(loaded(instance(*arguments, kind="generate_until")))
    assert "lm_eval:t: document 0" in str(error.value)
    assert message in str(error.value)


def test_a_mark_without_pictures_is_text() -> None:
    (request,) = asking.ask(loaded(instance("<image> tags", {}, kind="generate_until"))).requests
    assert request.parts == ("<image> tags",)


# --- which metric is the score -----------------------------------------------------------------


def mean(values: Any) -> float:
    return 0.0


def corpus(values: Any) -> float:
    return 0.0


def task_with(**metrics: Any) -> Any:
    """A task with metrics in this order: name -> (aggregation, higher is better)."""
    return SimpleNamespace(
        _filters=[SimpleNamespace(name="first"), SimpleNamespace(name="second")],
        aggregation=lambda: {name: way for name, (way, _) in metrics.items()},
        higher_is_better=lambda: {name: up for name, (_, up) in metrics.items()},
    )


def test_the_headline_is_the_first_mean_of_documents() -> None:
    task = task_with(perplexity=(corpus, False), f1=(corpus, True), acc=(mean, True))
    assert headline("t", task, [], None).metric == "acc,first"


def test_a_metric_of_documents_with_another_sum_is_used_and_said() -> None:
    chosen = headline("t", task_with(em=(corpus, True)), [{"em,first": 1.0}], None)
    assert chosen.metric == "em,first"
    assert chosen.note == "em is the mean of documents here; lm-eval sums it up by corpus"


def test_a_metric_of_the_whole_corpus_is_refused() -> None:
    task = task_with(bleu=(corpus, True))
    with pytest.raises(DataError, match=r"no score of single documents .* bleu \(corpus\)"):
        headline("t", task, [{"bleu,first": ("gold", "answer")}], None)


def test_a_manifest_chooses_metric_and_filter() -> None:
    task = task_with(acc=(mean, True), acc_norm=(mean, True))
    assert headline("t", task, [], "acc_norm").metric == "acc_norm,first"
    assert headline("t", task, [], "acc,second").metric == "acc,second"
    with pytest.raises(DataError, match="no metric 'acc_nrm'; did you mean 'acc_norm'"):
        headline("t", task, [], "acc_nrm")


def test_only_a_metric_of_which_more_is_better_is_judged() -> None:
    task = task_with(loss=(mean, False), acc=(mean, True), chars=(mean, True))
    trial = [{"loss,first": 0.5, "acc,first": 0.0, "chars,first": 0.0}]
    with pytest.raises(DataError) as error:
        headline("t", task, trial, "loss")
    assert str(error.value) == (
        "suite.lm_eval.metric.t: loss is better when it is lower (`higher_is_better: false`); only "
        "metrics from 0 to 1 of which more is better can be judged; choose from acc, chars"
    )
    with pytest.raises(DataError, match=r"choose from acc, chars$"):
        headline("t", task, [], "loss,second")
    with pytest.raises(
        DataError, match=r"more is better, only: loss \(mean\) is better when it is l"
    ):
        headline("t", task_with(loss=(mean, False)), [{"loss,first": 0.5}], None)


def test_a_metric_that_leaves_0_to_1_on_some_trial_is_refused() -> None:
    task = task_with(chars=(mean, True), brier=(mean, True), acc=(mean, True), pct=(mean, True))
    trials = [
        {"chars,first": 0, "brier,first": (1, 0.5), "acc,first": 0.0, "pct,first": 0.0},
        {"chars,first": 31, "brier,first": (1, 0.5), "acc,first": 1.0, "pct,first": float("nan")},
    ]
    assert headline("t", task, trials, None).metric == "acc,first"
    for wanted, got in (("chars", "31"), ("brier", r"\(1, 0.5\)"), ("pct", "nan")):
        with pytest.raises(
            DataError, match=rf"^suite.lm_eval.metric.t: {wanted} is {got} for a tr"
        ):
            headline("t", task, trials, wanted)


# --- lm-eval's own refusals --------------------------------------------------------------------


# `picky` is a score for the answers that it is tried with, and for no other.
ODD_CODE = """

def process_odd(doc, results):
    said = results[0]
    shared = shared_letters(doc["answer"], said)
    fine = said in ("", "42") or doc["answer"].endswith(said) or len(said) > 99
    return {"length": len(said), "pair": (said, 1.0), "loss": 1 - shared, "shared": shared,
            "picky": shared if fine else 7.0}
"""


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("odd")
    tasks = write_tasks(folder / "tasks", n=2)
    make = yaml.safe_load((tasks / "tiny_cloze.yaml").read_text())
    rolling = {**make, "task": "odd_rolling", "output_type": "loglikelihood_rolling"}
    rolling["metric_list"] = [{"metric": "word_perplexity"}]
    broken = {**make, "task": "odd_broken", "doc_to_text": "{{left.nothing.more}}"}
    write = yaml.safe_load((tasks / "tiny_generate.yaml").read_text().replace("!function ", ""))
    measured = {**write, "task": "odd_metrics", "process_results": "!function code.process_odd"}
    measured["metric_list"] = [
        {"metric": name, "aggregation": "mean", "higher_is_better": name != "loss"}
        for name in ("length", "pair", "loss", "shared", "picky")
    ]
    for task in (rolling, broken, {**make, "task": "odd_code", "unsafe_code": True}, measured):
        text = yaml.safe_dump(task).replace(
            "'!function code.process_odd'", "!function code.process_odd"
        )
        (tasks / f"{task['task']}.yaml").write_text(text)
    (tasks / "code.py").write_text((tasks / "code.py").read_text() + ODD_CODE)
    choice = yaml.safe_load((tasks / "tiny_choice.yaml").read_text())
    stops = {"until": [""], "max_gen_toks": 5, "do_sample": False}
    write["process_results"] = "!function code.process_text"
    more = [
        {**choice, "task": "odd_empty", "doc_to_choice": ["", "b", "c", "d"], "tag": []},
        {**write, "task": "odd_until", "generation_kwargs": stops},
        {"group": "odd_circle", "task": ["tiny_cloze", "odd_inner"]},
        {"group": "odd_inner", "task": [{"group": "odd_inline", "task": ["odd_circle"]}]},
        {"group": "odd_same", "task": ["tiny_inputs", "tiny_choice"]},
        {"group": "odd_other", "task": ["tiny_inputs", {"task": "tiny_choice", "num_fewshot": 2}]},
    ]
    for task in more:
        name = task.get("task") if "group" not in task else task["group"]
        text = yaml.safe_dump(task).replace(
            "'!function code.process_text'", "!function code.process_text"
        )
        (tasks / f"{name}.yaml").write_text(text)
    make_checkpoint(folder / "base", "qwen2_5_vl", 1)
    make_checkpoint(folder / "one", "qwen2_5_vl", 2)
    yield folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("odd_rolling", "measures the perplexity of whole documents"),
        ("odd_broken", "lm_eval:odd_broken: lm-eval: UndefinedError"),
        ("odd_code", "set `suite.lm_eval.allow_code: true`"),
        ("odd_circle", "the group contains itself: odd_circle > odd_inner > odd_circle; take the"),
        (
            "odd_empty",
            "lm_eval:odd_empty: the first document of odd_empty has an empty option ('')",
        ),
    ],
)
def test_a_task_that_cannot_be_asked_fails_alone(odd: Path, name: str, message: str) -> None:
    file = write_study(odd, [name, "tiny_cloze"])
    opened = study.open_study(file, study.Options(results=odd / "results"))
    assert list(opened.plan.benchmarks) == ["lm_eval:tiny_cloze"]
    (failure,) = opened.plan.failures
    assert message in failure.why


@pytest.mark.slow
@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("loss", "loss is better when it is lower"),
        ("pair", "pair is ("),
        ("length", "length is "),
    ],
)
def test_a_metric_that_cannot_be_judged_is_refused_before_the_sweep(
    odd: Path, metric: str, message: str
) -> None:
    file = write_study(odd, ["odd_metrics", "tiny_cloze"], metric={"odd_metrics": metric})
    opened = study.open_study(file, study.Options(results=odd / "results"))
    assert list(opened.plan.benchmarks) == ["lm_eval:tiny_cloze"]
    (failure,) = opened.plan.failures
    assert f"suite.lm_eval.metric.odd_metrics: {message}" in failure.why
    assert "choose from shared, shared,whole, picky,whole" in failure.why


@pytest.mark.slow
def test_settings_of_tasks_that_the_study_lacks_are_refused(odd: Path) -> None:
    more = {"num_fewshot": {"tiny_clozee": 2, "odd_same": 1}, "metric": {"other": "acc"}}
    file = write_study(odd, ["odd_same", "tiny_cloze"], **more)
    with pytest.raises(ManifestError) as error:
        study.open_study(file, study.Options(results=odd / "results"))
    assert str(error.value) == (
        "suite.lm_eval: 2 problems\n"
        "  num_fewshot.tiny_clozee: this study names no such task or group; did you mean "
        "'tiny_cloze'?\n"
        "  metric.other: this study names no such task or group; it has odd_same, tiny_choice, "
        "tiny_cloze, tiny_inputs"
    )


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["acc", "acc_norm", "acc_mutual_info"])
def test_the_option_that_is_shown_is_the_one_that_the_metric_takes(
    place: Path, metric: str
) -> None:
    opened = score(write_study(place, ["tiny_mutual"], metric={"tiny_mutual": metric}))
    scores = read_scores(opened.store.folder)
    bench, texts = scores.benchmarks["lm_eval:tiny_mutual"], scores.texts
    assert texts is not None
    assert list(bench.sample_ids) == [str(i) for i in range(8)]
    for j, key in enumerate(bench.columns):
        right = [
            texts.response(key, bench.benchmark, name) == texts.gold(bench.benchmark, name)
            for name in bench.sample_ids
        ]
        assert right == bench.values[OWN_METRIC][:, j].astype(bool).tolist()


@pytest.mark.parametrize(
    ("metric", "best"),
    [("acc,none", 0), ("acc_norm,none", 1), ("acc_bytes,none", 2), ("acc_mutual_info,none", 3)],
)
def test_each_metric_chooses_by_its_own_scores(metric: str, best: int) -> None:
    sample = Sample(
        "0", "q", ("A",), choices=(" a", " bbbb", " éé日日", " c"), doc={"delimiter": 1}
    )
    scores = choosing_scores(metric, sample, [-4.0, -4.4, -4.6, -5.0], [-1.0, -1.0, -1.0, -3.0])
    assert int(np.argmax(scores)) == best


@pytest.mark.slow
def test_a_task_of_two_groups_is_one_benchmark_only_with_the_same_settings(odd: Path) -> None:
    file = write_study(odd, ["odd_same", "tiny_tag"])
    plan = study.open_study(file, study.Options(results=odd / "results")).plan
    assert [name.removeprefix("lm_eval:") for name in plan.benchmarks] == [
        "tiny_inputs", "tiny_choice", "tiny_mutual",
    ]  # fmt: skip
    assert not plan.failures
    file = write_study(odd, ["tiny_choice", "odd_other"])
    plan = study.open_study(file, study.Options(results=odd / "results")).plan
    assert list(plan.benchmarks) == ["lm_eval:tiny_choice"]
    (failure,) = plan.failures
    assert failure.why.startswith(
        "lm_eval:odd_other: its lm_eval:tiny_choice is not that of lm_eval:tiny_choice, they "
        "differ in num_fewshot 0 and 2, what is asked"
    )


@pytest.mark.slow
def test_an_empty_stop_string_is_that_of_lm_eval_itself(odd: Path) -> None:
    opened = score(write_study(odd, ["odd_until"]))
    theirs = run_lm_eval(odd / "base", odd / "tasks", ["odd_until"])["odd_until"]
    ours = opened.store.predictions("lm_eval:odd_until", opened.plan.cells[0].id)
    assert {str(row["doc_id"]): row["resps"][0][0] for row in theirs} == {
        name: answer.text for name, answer in ours.items()
    }


@pytest.mark.slow
def test_a_task_that_cannot_be_graded_is_missing_and_the_rest_is_judged(odd: Path) -> None:
    file = write_study(odd, ["odd_metrics"])
    (bench,) = study.open_study(
        file, study.Options(results=odd / "results")
    ).plan.benchmarks.values()
    assert bench.task.metric == "shared,tail"
    file = write_study(odd, ["odd_metrics", "tiny_cloze"], metric={"odd_metrics": "picky,whole"})
    opened = study.open_study(file, study.Options(results=odd / "refused"))
    for _ in range(2):  # scored again, it says the same
        (failure,) = study.score(opened, Nobody()).failures
        assert "picky,whole of document 0 is 7.0, expected a number from 0 to 1" in failure.why
        assert "from shared,tail, shared,whole, or drop the task" in failure.why
        assert failure.why.endswith("(other checkpoints alike: 1)")
    scores = read_scores(opened.store.folder)
    ((name, note),) = scores.ungraded.items()
    assert name == "lm_eval:odd_metrics" and note in judge(scores, JudgeOptions()).notes
    assert note.startswith("lm_eval:odd_metrics is missing: its answers could not be graded: picky")
    assert "suite.lm_eval.metric" in note
    deltas = judge(scores, JudgeOptions(scorer="strict")).deltas.set_index("benchmark")["delta_pp"]
    assert np.isnan(deltas["lm_eval:odd_metrics"]).all()
    assert np.isfinite(deltas["lm_eval:tiny_cloze"]).any()
    place = ["own", "--results", str(odd / "refused")]
    for words in (["compare"], ["gate", "--candidate", "llm"], ["drift"], ["results", "check"]):
        done = CliRunner().invoke(app, [*words, *place], env={"COLUMNS": "300"})
        assert "could not be graded: picky" in done.output or "not graded: picky" in done.output
        assert done.exit_code in (0, 1, 3, 6), done.output


def test_without_lm_eval_the_install_command_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from importlib.metadata import PackageNotFoundError

    from harness.lmeval import library

    def gone(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(library, "version", gone)
    with pytest.raises(UserError, match=r"lm-eval is not installed; pip install 'forgeteval\[lm"):
        library.installed_version()


def test_lm_eval_is_not_imported_by_the_command_line() -> None:
    assert CliRunner().invoke(app, ["--help"]).exit_code == 0
    code = "import sys, harness.cli, harness.study; sys.exit('lm_eval' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.vllm
def test_both_engines_answer_lm_evals_requests_alike(place: Path) -> None:
    """Verbatim prompts with and without pictures, generated and compared, on vLLM and transformers."""
    file = write_study(place, NAMES)
    written = yaml.safe_load(file.read_text())
    written["strategies"] = {}
    cells = {}
    for kind, more in (("hf", {}), ("vllm", {"limit_mm_per_prompt": {"image": 2, "video": 0}})):
        written["engine"] = {"kind": kind, **more}
        written["study"] = f"on-{kind}"
        file.write_text(yaml.safe_dump(written))
        opened = score(file)
        cells[kind] = {
            cell.task: opened.store.predictions(cell.task, cell.id) for cell in opened.plan.cells
        }
    texts = same = 0
    for task, ours in cells["hf"].items():
        for name, one in ours.items():
            other = cells["vllm"][task][name]
            if one.choice_scores is None:
                texts += 1
                same += one.text == other.text
                continue
            assert other.choice_scores == pytest.approx(one.choice_scores, abs=2e-3)
            assert other.choice_greedy == one.choice_greedy
    # Some answers end with a stop letter inside a special token's name.
    assert same == texts == 16


@pytest.mark.slow
def test_a_group_is_its_tasks_and_a_task_has_one_role(place: Path) -> None:
    file = write_study(place, ["tiny_group"])
    opened = study.open_study(file, study.Options(results=place / "results"))
    assert list(opened.plan.benchmarks) == ["lm_eval:tiny_generate", "lm_eval:tiny_choice"]
    written = yaml.safe_load(file.read_text())
    written["suite"]["probes"] = ["lm_eval:tiny_choice"]
    file.write_text(yaml.safe_dump(written))
    opened = study.open_study(file, study.Options(results=place / "results"))
    (failure,) = opened.plan.failures
    assert failure.why == "lm_eval:tiny_choice: lm_eval:tiny_choice is already held_out"
    written["suite"] = {**written["suite"], "probes": [], "held_out": []}
    written["suite"]["targets"] = ["lm_eval:tiny_group"]
    file.write_text(yaml.safe_dump(written))
    opened = study.open_study(file, study.Options(results=place / "results"))
    assert "is a group; name one of its tasks as a target" in opened.plan.failures[0].why


def test_a_record_of_an_lm_eval_task_names_its_metric(tmp_path: Path) -> None:
    row = {"name": "lm_eval:x", "role": "held_out", "metric": "acc,none", "data": "0" * 64, "n": 1}
    stage = {"strategy": "base", "run": "0", "stage": 0, "name": "base", "trained_on": None}
    record = {
        "schema": 1, "kind": "scored", "study": "s", "base_model": "b", "benchmarks": [row],
        "tasks": {}, "components": {}, "stages": [{**stage, "cells": {}}],
    }  # fmt: skip
    (tmp_path / "study.json").write_text(json.dumps(record))
    with pytest.raises(ResultsError, match="needs `metric` and `grading`"):
        read_scores(tmp_path)
