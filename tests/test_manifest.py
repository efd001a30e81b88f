"""Every mistake in a manifest has its own message; a good manifest reads as written."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.errors import ManifestError, UserError
from harness.manifest import read_manifest
from harness.natural_order import natural
from harness.stage_lists import last_target

GOOD = """
study: mine
base: ckpt/base
suite:
  targets: [pixmo_count, pathvqa]
  held_out: [ai2d]
strategies:
  sa:
    component: sa_proj
    stages:
      - {trained_on: pixmo_count, path: ckpt/1_count}
      - {trained_on: pathvqa, path: ckpt/2_path}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("base", "1_count", "2_path", "10_pathvqa", "s0/1_pixmo_count", "s0/2_pathvqa"):
        (tmp_path / "ckpt" / name).mkdir(parents=True)
    return tmp_path


def read(folder: Path, text: str | bytes):
    file = folder / "checkpoints.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_manifest(file)


def test_a_good_manifest_reads_as_written(folder: Path):
    manifest = read(folder, GOOD)
    assert [(s.key.strategy, s.key.run, s.key.stage, s.name) for s, _ in manifest.stages()] == [
        ("sa", "0", 1, "pixmo_count"),
        ("sa", "0", 2, "pathvqa"),
    ]
    assert manifest.engine.kind == "hf" and manifest.base.path == "ckpt/base"
    assert manifest.suite.benchmarks() == {
        "pixmo_count": "target", "pathvqa": "target", "ai2d": "held_out",
    }  # fmt: skip


def test_a_glob_is_sorted_naturally_and_names_its_skills(folder: Path):
    text = GOOD.partition("    stages:")[0] + "    runs:\n    - {seed: 3, stages: ckpt/s0/*}\n"
    stages = list(read(folder, text).stages())
    assert [(s.key.run, s.trained_on, spec.path) for s, spec in stages] == [
        ("3", "pixmo_count", "ckpt/s0/1_pixmo_count"),
        ("3", "pathvqa", "ckpt/s0/2_pathvqa"),
    ]


def test_yes_and_true_are_no_numbers_and_one_is_no_yes(folder: Path):
    text = GOOD.replace("  held_out: [ai2d]", "  held_out: [ai2d]\n  limit: true\n  seed: '5'")
    text = text.replace("base: ckpt/base", "base: {path: ckpt/base, trust_remote_code: 1}")
    with pytest.raises(ManifestError) as refused:
        read(folder, text)
    lines = str(refused.value)
    assert "base.trust_remote_code: got 1, expected true or false" in lines
    assert "suite.limit: got True, expected a whole number" in lines
    assert "suite.seed: got '5', expected a whole number" in lines


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("''", "base: got an empty path, expected the folder of the model before tuning"),
        (
            "{path: ckpt/base, revision: main}",
            "base: `revision` goes with `hub`; a folder has none",
        ),
        (
            "ckpt/base/config.json",
            "'ckpt/base/config.json' is a file, expected a checkpoint's folder",
        ),
    ],
)
def test_bases_that_are_none(folder: Path, base: str, expected: str):
    (folder / "ckpt/base/config.json").write_text("{}")
    with pytest.raises(ManifestError) as refused:
        read(folder, GOOD.replace("base: ckpt/base", f"base: {base}"))
    assert expected in str(refused.value)


def test_names_that_mean_a_mean(folder: Path):
    text = GOOD.partition("    stages:")[0] + "    runs:\n    - {name: mean, stages: ckpt/s0/*}\n"
    with pytest.raises(ManifestError, match="the name `mean` means the mean over runs; rename it"):
        read(folder, text)
    task = "  tasks: {held_out: {path: x.jsonl, scorer: exact}}\nstrategies:"
    with pytest.raises(ManifestError, match="'held_out' is what tables call a mean"):
        read(folder, GOOD.replace("strategies:", task))


def test_natural_order_and_last_target():
    assert sorted(["10_clock", "2_count", "1_x"], key=natural) == ["1_x", "2_count", "10_clock"]
    odd = ["m²", "9" * 5000, "a3"]  # a digit that is no number; a number that none can be made of
    assert sorted(odd, key=natural) == ["9" * 5000, "a3", "m²"]
    assert last_target("trained_on_a_then_ab", ["a", "ab"]) == "ab"
    assert last_target("nothing", ["a_b"]) is None


def test_a_hub_id_is_not_taken_for_a_folder(folder: Path):
    manifest = read(folder, GOOD.replace("base: ckpt/base", "base: some-org/some-model"))
    assert manifest.base.hub == "some-org/some-model"


def change(*pairs: tuple[str, str]) -> str:
    text = GOOD
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    return text


def test_a_sweep_of_alphas_is_a_stage_each(folder: Path):
    sweep = "{wise_ft: {of: ckpt/10_pathvqa, with: previous, alpha: [0, 0.25, 1]}, name: mix}"
    manifest = read(folder, GOOD + f"      - {sweep}\n")
    found = [(s.key.stage, s.name, spec.wise_ft) for s, spec in manifest.stages()][2:]
    assert [(stage, name) for stage, name, _ in found] == [
        (3, "mix-alpha0"),
        (4, "mix-alpha0.25"),
        (5, "mix-alpha1"),
    ]
    assert [(mix.of, mix.with_, mix.alpha) for *_, mix in found if mix] == [
        ("ckpt/10_pathvqa", "ckpt/2_path", 0),
        ("ckpt/10_pathvqa", "ckpt/2_path", 0.25),
        ("ckpt/10_pathvqa", "ckpt/2_path", 1),
    ]


def test_previous_of_the_first_stage_is_the_base(folder: Path):
    mixed = change(
        ("path: ckpt/1_count", "wise_ft: {of: ckpt/1_count, with: previous, alpha: 0.5}"),
        ("path: ckpt/2_path", "wise_ft: {of: ckpt/2_path, with: ckpt/1_count, alpha: 0.5}"),
    )
    specs = [spec.wise_ft for _, spec in read(folder, mixed).stages()]
    assert [spec and (spec.of, spec.with_) for spec in specs] == [
        ("ckpt/1_count", "base"),
        ("ckpt/2_path", "ckpt/1_count"),
    ]


# what is wrong -> (manifest, a line of the message)
MISTAKES: dict[str, tuple[str | bytes, str]] = {
    "empty file": ("", "the file is empty; expected keys study, base, suite, strategies"),
    "a list": ("- a\n- b\n", "got a list, expected keys study, base, suite, strategies"),
    "not yaml": (GOOD + "  bad: [1, 2\n", "not YAML"),
    "not utf-8": (b"study: \xff\xfe", "not UTF-8 text (byte 7)"),
    "tab": ("study:\tx\n\tbase: y", "not YAML"),
    "huge": ("study: " + "x" * 2_000_001, "such a file has at most 2,000,000"),
    "alias bomb": (
        "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
        + "".join(f"{b}: &{b} [{','.join(['*' + a] * 10)}]\n" for a, b in zip("abcdef", "bcdefg", strict=True)),
        "too many or too deep values once aliases are expanded",
    ),
    "recursive alias": ("a: &a [*a]", "too many or too deep"),
    "key given twice": (change(("study: mine", "study: mine\nstudy: yours")), "study: key given twice"),
    "nested key given twice": (
        change(("  held_out: [ai2d]", "  held_out: [ai2d]\n  held_out: [mmstar]")),
        "suite.held_out: key given twice",
    ),
    "no study": (change(("study: mine\n", "")), "study: is missing"),
    "no base": (change(("base: ckpt/base\n", "")), "base: is missing"),
    "no suite": (GOOD[: GOOD.index("suite:")], "suite: is missing"),
    "unknown key": (
        change(("study: mine", "study: mine\nstrategy: {}")),
        "strategy: unknown key; did you mean 'strategies'?",
    ),
    "unknown suite key": (
        change(("  held_out:", "  heldout:")),
        "suite.heldout: unknown key; did you mean 'held_out'?",
    ),
    "unknown stage key": (
        change(("{trained_on: pixmo_count, path", "{traned_on: pixmo_count, path")),
        "strategies.sa.stages[0].traned_on: unknown key; did you mean 'trained_on'?",
    ),
    "unknown strategy key": (
        change(("component: sa_proj", "componnent: sa_proj")),
        "strategies.sa.componnent: unknown key; did you mean 'component'?",
    ),
    "unknown task": (
        change(("[ai2d]", "[ai2d, chart_qa]")),
        "suite.held_out[1]: unknown task 'chart_qa'; did you mean 'chartqa'?",
    ),
    "unknown component": (
        change(("component: sa_proj", "component: sa_prj")),
        "strategies.sa.component: ",
    ),
    "unknown engine": (
        change(("study: mine", "study: mine\nengine: {kind: tgi}")),
        "engine.kind: got 'tgi', expected 'hf' or 'vllm'",
    ),
    "unknown engine option": (
        change(("study: mine", "study: mine\nengine: {kind: hf, batchsize: 4}")),
        "batchsize: unknown option; did you mean 'batch_size'?",
    ),
    "bad dtype": (
        change(("study: mine", "study: mine\nengine: {dtype: fp8}")),
        "dtype: got 'fp8'",
    ),
    "missing checkpoint": (
        change(("ckpt/2_path", "ckpt/3_path")),
        "strategies.sa.stages[1].path: no checkpoint at 'ckpt/3_path'; the folder holds 10_pathvqa,",
    ),
    "missing base": (
        change(("base: ckpt/base", "base: ckpt/bse")),
        "base: no checkpoint at 'ckpt/bse'",
    ),
    "glob without match": (
        GOOD.partition("    stages:")[0] + "    stages: ckpt/zz*\n",
        "strategies.sa.stages: no folder matches 'ckpt/zz*'",
    ),
    "path leaves the folder": (
        change(("ckpt/2_path", "../2_path")),
        "'../2_path' leaves the manifest's folder; write an absolute path",
    ),
    "path leaves later": (change(("ckpt/2_path", "ckpt/../../x")), "leaves the manifest's folder"),
    "path with NUL": (change(("ckpt/2_path", '"ckpt\\0x"')), "not a path"),
    "very long path": (change(("ckpt/2_path", "c" * 5_000)), "not a path (too long"),
    "study name is a path": (change(("study: mine", "study: ../x")), "study: got '../x', expected a"),
    "study name is a device": (change(("study: mine", "study: nul")), "study: got 'nul'"),
    "study name is long": (change(("study: mine", "study: " + "x" * 5_000)), "at most 80"),
    "strategy name is a path": (change(("  sa:", "  a/b:")), "got 'a/b', expected a plain name"),
    "strategy called base": (change(("  sa:", "  base:")), "the name `base` means stage 0"),
    "study is a number": (change(("study: mine", "study: [1]")), "study: got a list, expected a text"),
    "limit is zero": (change(("  held_out:", "  limit: 0\n  held_out:")), "suite.limit: got 0"),
    "limit is a word": (
        change(("  held_out:", "  limit: many\n  held_out:")),
        "suite.limit: got 'many', expected a whole number",
    ),
    "bad profile": (
        change(("  held_out:", "  profile: fxed\n  held_out:")),
        "suite.profile: got 'fxed', expected 'fixed' or 'lmm_cl'",
    ),
    "targets is a word": (
        change(("targets: [pixmo_count, pathvqa]", "targets: pathvqa")),
        "suite.targets: got 'pathvqa', expected a list",
    ),
    "benchmark twice": (
        change(("[ai2d]", "[ai2d, pathvqa]")),
        "suite.held_out[1]: 'pathvqa' is already suite.targets[1]",
    ),
    "no benchmarks": (
        change(("  targets: [pixmo_count, pathvqa]\n  held_out: [ai2d]\n", "  limit: 5\n")),
        "suite: names no benchmark",
    ),
    "stage twice": (
        change(("ckpt/2_path", "ckpt/1_count")),
        "strategies.sa.stages[1].path: 'ckpt/1_count' is already stages[0]",
    ),
    "stage name twice": (
        change(("path: ckpt/1_count", "name: x, path: ckpt/1_count"),
               ("path: ckpt/2_path", "name: x, path: ckpt/2_path")),
        "strategies.sa.stages[1].name: 'x' is already stages[0]",
    ),
    "run twice": (
        GOOD.partition("    stages:")[0]
        + "    runs:\n    - {seed: 0, stages: ckpt/s0/*}\n    - {seed: 0, stages: ckpt/s0/*}\n",
        "strategies.sa.runs[1]: a second run called '0'",
    ),
    "stages and runs": (
        change(("    stages:", "    runs: []\n    stages:")),
        "strategies.sa: expected either `stages:` or `runs:`",
    ),
    "no stages": (
        GOOD.partition("    stages:")[0],
        "strategies.sa: expected either `stages:` or `runs:`",
    ),
    "empty stages": (
        GOOD.partition("    stages:")[0] + "    stages: []\n",
        "strategies.sa: expected at least one stage",
    ),
    "stage without path": (
        change(("{trained_on: pathvqa, path: ckpt/2_path}", "{trained_on: pathvqa}")),
        "strategies.sa.stages[1]: expected either `path: FOLDER` or `wise_ft:",
    ),
    "trained on no target": (
        change(("trained_on: pathvqa", "trained_on: ai2d")),
        "strategies.sa.stages[1].trained_on: 'ai2d' is not among suite.targets; add it there",
    ),
    "alpha out of range": (
        change(("path: ckpt/2_path", "wise_ft: {of: ckpt/2_path, alpha: 1.5}")),
        "strategies.sa.stages[1].wise_ft.alpha: got 1.5",
    ),
    "sweep out of range": (
        change(("path: ckpt/2_path", "wise_ft: {of: ckpt/2_path, alpha: [0.5, 2]}")),
        "stages[1].wise_ft.alpha: got [0.5, 2], expected numbers from 0 to 1, each once",
    ),
    "sweep with a share twice": (
        change(("path: ckpt/2_path", "wise_ft: {of: ckpt/2_path, alpha: [0.5, 0.5]}")),
        "stages[1].wise_ft.alpha: got [0.5, 0.5], expected numbers from 0 to 1, each once",
    ),
    "previous stage is interpolated": (
        change(
            ("path: ckpt/1_count", "wise_ft: {of: ckpt/1_count, alpha: 0.5}"),
            ("path: ckpt/2_path", "wise_ft: {of: ckpt/2_path, with: previous, alpha: 0.5}"),
        ),
        "stages[1].wise_ft.with: got 'previous', but the stage before is itself interpolated;"
        " name the folder to mix with",
    ),
    "mixed with itself": (
        GOOD + "      - {wise_ft: {of: ckpt/2_path, with: previous, alpha: 0.5}}\n",
        "stages[2].wise_ft.with: the stage before is `of` itself; put the mix in its place",
    ),
    "source of no task of the suite": (
        change(("  held_out:", "  sources: {mmstar: {path: x}}\n  held_out:")),
        "suite.sources.mmstar: the suite does not use this task",
    ),
    "declared task with a known name": (
        change(("  held_out:", "  tasks: {pope: {path: x, scorer: exact}}\n  held_out:")),
        "suite.tasks.pope: the name is taken by a known benchmark; choose another, as 'my_pope', here"
        " and where the suite names it",
    ),
    "source of a declared task": (
        change(
            ("  held_out: [", "  tasks: {own: {path: x, scorer: exact}}\n  sources: {own: {path: y}}\n"
             "  held_out: [own, "),
        ),
        "suite.sources.own: the task is declared in this manifest; say where its rows are at"
        " suite.tasks.own.path",
    ),
    "base with two places": (
        change(("base: ckpt/base", "base: {path: ckpt/base, hub: a/b}")),
        "base: expected either `path: FOLDER` or `hub: ORG/NAME`",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", MISTAKES)
def test_every_mistake_has_its_own_message(folder: Path, what: str):
    text, expected = MISTAKES[what]
    with pytest.raises(ManifestError) as caught:
        read(folder, text)
    assert expected in str(caught.value)
    assert str(caught.value).startswith("checkpoints.yaml: ")
    assert str(folder) not in str(caught.value)


def test_all_problems_are_reported_at_once(folder: Path):
    text = change(("ckpt/2_path", "ckpt/3_path"), ("[ai2d]", "[chart_qa]"), ("study: mine\n", ""))
    with pytest.raises(ManifestError) as caught:
        read(folder, text)
    assert str(caught.value).splitlines()[0] == "checkpoints.yaml: 3 problems"
    assert len(caught.value.problems) == 3


def test_a_missing_file_says_so(tmp_path: Path):
    with pytest.raises(ManifestError, match="no such file"):
        read_manifest(tmp_path / "no.yaml")


def test_checkpoints_that_are_not_made_yet_name_the_command(tmp_path: Path):
    text = change(("study: mine", "study: mine\nmade_by: make demo"))
    with pytest.raises(ManifestError, match="not made yet; run `make demo` first"):
        read(tmp_path, text)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["study", "base", "suite", "strategies", "stages", "path", "runs", "tasks",
                         "targets", "held_out", "engine", "kind", "x", "sources", "wise_ft"]),
        inner, max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    value=st.dictionaries(
        st.sampled_from(["study", "base", "suite", "strategies", "engine"]), values
    )
)
def test_no_yaml_escapes_as_a_traceback(folder: Path, value: dict):
    try:
        read(folder, yaml.safe_dump(value))
    except UserError as error:
        assert error.problems
