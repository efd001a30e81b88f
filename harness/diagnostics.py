"""Diagnostics: the same checkpoints asked once more, for what drift needs to know.

Cells of three kinds, each under a signature of its own, so that nothing of the answers changes:

- `forced`: the teacher-forced probe. Every checkpoint is read on the base model's own answers, on
  a seeded random sample of each task's prompts. The base's cell comes first: it holds the answers
  and the distributions that the others are compared with.
- `free-running`: the reference study's form. Every checkpoint gives its own answer, as long as it
  likes; kept for comparison with published figures.
- `choices`: the likelihood of the options, for questions that have some.

Tasks of lm-eval are probed like ours: a generated answer by its own stop strings, and where a task
compares continuations the one position at which they begin. `choices` has nothing to add to them:
options are compared already, or there are none.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress

from harness.data.subset import choose
from harness.errors import DataError, ManifestError, ResultsError, did_you_mean
from harness.plan import Cell, Plan, owes
from harness.prompts import options_of
from harness.record import FILE
from harness.storage.result_files import read_json
from harness.storage.signatures import cell_id
from harness.storage.store import Store
from harness.types import KINDS, Kind, Probe, Request, Sample, Stage

# Samples of each task that a probe reads, unless a command says otherwise.
SAMPLES = 64
# Positions that the forced probe reads of an answer, and tokens it compares at each.
POSITIONS = 32
TOP_K = 64
# arXiv 2510.08564 decodes up to 256 tokens freely.
FREE_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Asked:
    """Which diagnostics a command asks for, and what the study says of them."""

    kinds: tuple[Kind, ...] = ()
    samples: int | None = None
    """Samples per task that probes read; None: as many as before, at first `SAMPLES`."""
    seed: int = 0
    """Draws the samples that probes read."""
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The user's own token classes, which a probe reads as well."""
    retry_failed: bool = False


def kinds_of(forms: Sequence[str], choices: bool, samples: int | None) -> tuple[Kind, ...]:
    """The kinds that a command names.

    Raises ManifestError for a form that there is not, and a number of samples for no probe.
    """
    known = [kind for kind in KINDS if kind != "choices"]
    if wrong := [form for form in forms if form not in known]:
        hint = did_you_mean(wrong[0], known) or f"; expected {' or '.join(known)}"
        raise ManifestError("--probe", f"got {wrong[0]!r}{hint}")
    if samples is not None and not forms:
        raise ManifestError("--probe-samples", "says how many samples a probe reads; add --probe")
    return tuple(k for k in KINDS if k in forms or (choices and k == "choices"))


def with_diagnostics(
    plan: Plan, store: Store, asked: Asked, wanted: Callable[[Stage], bool] = lambda stage: True
) -> Plan:
    """The plan with the diagnostics that are asked for or there already, behind the answers.

    The base comes first even where its answers are there: others are compared with its probe.
    """
    planner = _Planner(plan, store, asked)
    picked = {c.fingerprint for stage, c in plan.stages if c and wanted(stage)}
    groups: dict[str, list[Cell]] = {}
    for cell in plan.cells:
        if not cell.again:
            groups.setdefault(cell.checkpoint.fingerprint, []).append(cell)
    cells: list[Cell] = []
    for mark, answers in groups.items():
        more = [planner.cell(kind, cell, mark in picked) for kind in KINDS for cell in answers]
        cells += [*answers, *(cell for cell in more if cell)]
    if picked:
        _refuse_nothing(plan, asked.kinds, {cell.kind for cell in cells})
    return replace(plan, cells=[*cells, *(cell for cell in plan.cells if cell.again)])


def _refuse_nothing(plan: Plan, kinds: Sequence[Kind], found: Collection[Kind | None]) -> None:
    """Raises ManifestError for a kind that none of the study's benchmarks can be asked for."""
    theirs = all(benchmark.lm_eval for benchmark in plan.benchmarks.values())
    for kind in kinds:
        if not plan.benchmarks or kind in found:
            continue
        if kind == "choices":
            why = "no benchmark of this study asks questions with options" + (
                ": tasks of lm-eval compare theirs already" if theirs else ""
            )
            raise ManifestError("--choices", f"{why}; leave it out")
        raise ManifestError(
            f"--probe {kind}",
            "nothing here is answered freely: all benchmarks are tasks of lm-eval that compare "
            "options; `--probe forced` reads where options begin",
        )


class _Planner:
    """Makes the diagnostic cells of one plan."""

    def __init__(self, plan: Plan, store: Store, asked: Asked):
        self._plan = plan
        self._store = store
        self._asked = asked
        before = samples_before(store)
        asking = {kind: asked.samples for kind in asked.kinds if asked.samples}
        self._samples: dict[Kind, int] = {**before, **asking}
        base = plan.stages[0][1]
        self._base = base.fingerprint if base else ""
        self._of_base = {
            c.task: c for c in plan.cells if c.checkpoint.fingerprint == self._base and not c.again
        }

    def cell(self, kind: Kind, answers: Cell, wanted: bool) -> Cell | None:
        """The cell of a kind that goes with the answers; None: neither owed nor there."""
        first = self._of_base.get(answers.task)
        if first is None:  # the base cannot be read: there is nothing to compare with
            return None
        store, asked, task = self._store, self._asked, answers.task
        signature = self._signature(kind, answers)
        here = cell_id(signature)
        wanted = wanted and kind in asked.kinds and owes(store, task, here, asked.retry_failed)
        n = self._n(kind, answers) if wanted else answers.n
        if not (wanted and n) and not store.is_sealed(task, here):
            return None
        follows = cell_id(self._signature(kind, first)) if kind == "forced" else ""
        return replace(
            answers, signature=signature, n=n, owed=wanted, kind=kind,
            follows="" if follows == here else follows,
        )  # fmt: skip

    def _signature(self, kind: Kind, answers: Cell) -> dict[str, object]:
        if kind == "choices":
            return {**answers.signature, "scoring": kind}
        own = sorted((name, list(words)) for name, words in self._asked.classes.items())
        probe = {
            "scoring": f"probe-{kind}",
            "samples": self._samples[kind],
            "subset_seed": self._asked.seed,
            "classes": repr(own) if own else "-",
        }
        if kind == "free-running":
            return {**answers.signature, **probe, "max_new_tokens": FREE_TOKENS}
        # lm-eval's tasks that only compare are read where their continuations begin.
        positions = max(1, min(int(str(answers.signature["max_new_tokens"])), POSITIONS))
        compared = {"max_new_tokens": positions, "top_k": TOP_K, "base": self._base[:16]}
        return {**answers.signature, **probe, **compared}

    def _n(self, kind: Kind, answers: Cell) -> int:
        """Requests of a cell, about: whole groups are drawn. 0 = the task cannot be asked so."""
        benchmark = self._plan.benchmarks[answers.task]
        if benchmark.lm_eval and kind == "choices":
            return 0
        if benchmark.lm_eval and kind == "free-running" and not _generates(answers):
            return 0
        if kind != "choices":
            return min(answers.n, self._samples[kind])
        samples = benchmark.load()
        return sum(bool(options_of(sample)) for sample in samples)


def _generates(answers: Cell) -> bool:
    """Whether a task of lm-eval generates answers, or only compares continuations."""
    return int(str(answers.signature["max_new_tokens"])) > 0


def waves(plan: Plan, store: Store) -> list[Plan]:
    """The plan in parts, each of which can be swept in any order and by several engines at once.

    A cell that follows another waits for the part after that one's, unless it is sealed already.
    """
    late = {
        cell.id
        for cell in plan.cells
        if cell.owed and cell.follows and not store.is_sealed(cell.task, cell.follows)
    }
    if not late:
        return [plan]
    parts = [[c.owed and c.id not in late for c in plan.cells], [c.id in late for c in plan.cells]]
    return [
        replace(plan, cells=[replace(c, owed=o) for c, o in zip(plan.cells, owed, strict=True)])
        for owed in parts
    ]


def samples_before(store: Store) -> dict[Kind, int]:
    """Samples per task that each kind of cell was scored on here; `SAMPLES` where none was."""
    try:
        known = read_json(store.folder / FILE).get("probe_samples")
    except ResultsError:
        known = None  # a first sweep; what is damaged is told elsewhere
    known = known if isinstance(known, dict) else {}
    return {
        kind: known[kind] if type(known.get(kind)) is int and known[kind] > 0 else SAMPLES
        for kind in KINDS
    }


def diagnostic_requests(
    cell: Cell, requests: Sequence[Request], samples: Sequence[Sample], store: Store
) -> list[Request]:
    """What a diagnostic cell asks, made of the task's requests (in the samples' order).

    Raises DataError where the base's probe is not there to follow.
    """
    if cell.kind == "choices":
        pairs = zip(requests, samples, strict=True)
        return [replace(r, choices=options_of(s)) for r, s in pairs if options_of(s)]
    signature = cell.signature
    told = [_can_be_read(cell, request) for request in requests]
    requests, samples = list(compress(requests, told)), list(compress(samples, told))
    groups = [sample.group or sample.id for sample in samples]
    size, seed = int(str(signature["samples"])), int(str(signature["subset_seed"]))
    picked = [requests[place] for place in choose(cell.task, groups, size, seed)]
    probes = dict(_probes(cell, [request.sample_id for request in picked], store))
    return [
        replace(
            request,
            decoding=replace(request.decoding, max_new_tokens=_positions(cell, request)),
            # A prompt that lm-eval compares after is rendered otherwise than one to go on from.
            choices=request.choices if request.verbatim else (),
            probe=probes[request.sample_id],
        )
        for request in picked
        if request.sample_id in probes
    ]


def _can_be_read(cell: Cell, request: Request) -> bool:
    """Whether a probe of that kind has something to read of a request.

    Of lm-eval's comparisons not where nothing stands before what is compared, nor freely.
    """
    if not (request.verbatim and request.choices):
        return True
    return cell.kind == "forced" and any(part != "" for part in request.parts)


def _positions(cell: Cell, request: Request) -> int:
    """How many tokens of an answer are read; of a request that compares only one is its own."""
    tokens = int(str(cell.signature["max_new_tokens"]))
    compares = request.verbatim and bool(request.choices)
    return 1 if compares and cell.kind == "forced" else tokens


def _probes(cell: Cell, ids: Sequence[str], store: Store) -> Iterator[tuple[str, Probe]]:
    """(sample id, its probe); a sample whose base answer failed has none."""
    if not cell.follows:
        forced = cell.kind == "forced"
        probe = Probe(top_k=int(str(cell.signature["top_k"]))) if forced else Probe(peaks=True)
        yield from ((name, probe) for name in ids)
        return
    if not store.is_sealed(cell.task, cell.follows):
        raise DataError(cell.task, "the base's probe is not there to compare with; score it first")
    base = store.predictions(cell.task, cell.follows)
    for name in ids:
        read = base[name].reading if name in base else None
        if read and read.tokens:
            yield name, Probe(read.tokens, read.top_ids, read.top_logs)
