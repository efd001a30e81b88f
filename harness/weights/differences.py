"""The difference of two checkpoints, tensor by tensor, in the memory of a few megabytes.

Tensors are matched by their canonical path, so checkpoints in different layouts can be compared.
How far each one moved is measured in `harness.weights.moves`, or follows from an adapter's factors
(`harness.weights.adapters`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.checkpoints import TensorEntry, is_adapter, read_config, tensor_index
from harness.components import canonical
from harness.errors import CheckpointError
from harness.weights.adapters import Adapter, Product, UnreadableAdapter, read_adapter
from harness.weights.moves import Move, Pair, Report, measure, sum_squares
from harness.weights.tensors import sizes

_HEAD = "lm_head.weight"
_EMBEDDINGS = "language_model.embed_tokens.weight"


@dataclass(frozen=True, slots=True)
class Difference:
    """What a checkpoint has that another has not, and the reverse. Names are canonical paths'."""

    tensors: tuple[str, ...]
    """Every tensor of the later checkpoint (of an adapter against its base: of the base)."""
    moves: Mapping[str, Move]
    """Tensors whose values differ, by name."""
    missing: tuple[str, ...] = ()
    """In the earlier checkpoint only."""
    added: tuple[str, ...] = ()
    """In the later checkpoint only."""
    reshaped: Mapping[str, str] | None = None
    """Name -> "3x4, was 3x5"."""
    retyped: Mapping[str, str] | None = None
    """Name -> "F32, was BF16"; their values are compared all the same."""
    not_finite: tuple[str, ...] = ()
    """Tensors of the later checkpoint that hold NaN or Inf."""
    doubled: tuple[tuple[str, str], ...] = ()
    """Two names, in one of the checkpoints, of one tensor: which of them counts is a guess."""
    adapter: bool = False
    """The later checkpoint is an adapter: biases, norms and the like have nowhere to move to."""

    @property
    def identical(self) -> bool:
        """Same tensors, same types, same bytes."""
        return not (
            self.moves or self.missing or self.added or self.reshaped or self.retyped
            or self.doubled
        )  # fmt: skip


def difference(
    earlier: Path, later: Path, report: Report | None = None, *, base: Path | None = None
) -> Difference:
    """Compare two checkpoints: whole models, or peft adapters over the same base.

    A checkpoint is a folder, which needs no configuration here, or one safetensors file.

    `later` may be an adapter whose `earlier` is its base, or an adapter over `base`: without it, a
    tensor that only one of two adapters stores whole counts as moved by an unknown amount.
    Raises UnreadableAdapter for adapters that are not plain LoRA, else CheckpointError.
    """
    if is_adapter(later):
        return _adapter_difference(earlier, later, base, report)
    if is_adapter(earlier):
        raise CheckpointError(
            str(later), f"is a whole model and {earlier.name} an adapter; compare it with a model"
        )
    before, after = _Tensors.of(earlier), _Tensors.of(later)
    tied, head = _tied_head(before, after)
    missing = [e.name for path, e in before.items() if path not in after and not _head(path, tied)]
    added = [e.name for path, e in after.items() if path not in before and not _head(path, tied)]
    pairs = [(before[path], after[path]) for path in before if path in after]
    if head is not None:
        pairs.append(head)
    alone = [after[path] for path in after if path not in before and not _head(path, tied)]
    moves, broken = measure([(a, b) for a, b in pairs if a.shape == b.shape], alone, report)
    names = [entry.name for entry in after.values()]
    if head is not None and head[1].name not in names:
        names.append(head[1].name)
    return Difference(
        tensors=tuple(names),
        moves=moves,
        missing=tuple(missing),
        added=tuple(added),
        reshaped={b.name: _change(b.shape, a.shape) for a, b in pairs if a.shape != b.shape},
        retyped={b.name: f"{b.dtype}, was {a.dtype}" for a, b in pairs if a.dtype != b.dtype},
        not_finite=tuple(dict.fromkeys(broken)),
        doubled=(*before.doubled, *after.doubled),
    )


@dataclass(frozen=True, slots=True)
class _Tensors:
    """A model's tensors by canonical path."""

    by_path: dict[str, TensorEntry]
    """In the order of the files: reading is then sequential."""
    doubled: list[tuple[str, str]]
    tied: bool | None
    """As the configuration says; None = it does not."""

    @classmethod
    def of(cls, folder: Path) -> _Tensors:
        by_path: dict[str, TensorEntry] = {}
        doubled = []
        entries = sorted(tensor_index(folder).values(), key=lambda e: (str(e.file), e.offset))
        for entry in entries:
            first = by_path.setdefault(canonical(entry.name), entry)
            if first is not entry:
                doubled.append((first.name, entry.name))
        return cls(by_path, doubled, _says_tied(folder))

    def __iter__(self) -> Iterator[str]:
        return iter(self.by_path)

    def __contains__(self, path: str) -> bool:
        return path in self.by_path

    def __getitem__(self, path: str) -> TensorEntry:
        return self.by_path[path]

    def items(self) -> Iterator[tuple[str, TensorEntry]]:
        yield from self.by_path.items()

    def values(self) -> Iterator[TensorEntry]:
        yield from self.by_path.values()

    def head(self, tied: bool) -> TensorEntry | None:
        """What maps to words: a tensor of its own, or if `tied` the embeddings, by its name."""
        own = self.by_path.get(_HEAD)
        if own is not None or not tied or _EMBEDDINGS not in self.by_path:
            return own
        return replace(self.by_path[_EMBEDDINGS], name=_HEAD)

    def repeats_embeddings(self) -> bool:
        """Whether the stored head is the embeddings once more."""
        one, other = self.by_path.get(_EMBEDDINGS), self.by_path.get(_HEAD)
        if one is None or other is None or (one.shape, one.dtype) != (other.shape, other.dtype):
            return False
        return not measure([(one, other)], [])[0]


def _tied_head(before: _Tensors, after: _Tensors) -> tuple[bool, Pair | None]:
    """Of a head that one of both stores: whether the other's is known, and what to compare.

    Where both tie it, a stored one is no tensor of its own, unless it is another than the
    embeddings: transformers then uses it, whatever the configuration says. A start that stores none
    and says nothing ties it: what else would it use? A stage must say so, or it lost its head.
    """
    silent_or_apart = before.tied == after.tied and not before.tied
    if silent_or_apart or (_HEAD in before) == (_HEAD in after):
        return False, None
    one, other = before.head(before.tied is not False), after.head(after.tied is True)
    if one is None or other is None:
        return False, None
    holder = before if _HEAD in before else after
    if holder.tied is not False and holder.repeats_embeddings():
        return True, None
    return True, (one, other)


def ties_embeddings(folder: Path) -> bool:
    """Whether a model's output head is its embeddings, as its configuration (if any) says."""
    return bool(_says_tied(folder))


def _says_tied(folder: Path) -> bool | None:
    """As `ties_embeddings`; None where nothing is said, and the architecture decides."""
    if not (folder / "config.json").is_file():
        return None
    config = read_config(folder)
    text = config.get("text_config")
    inner = text.get("tie_word_embeddings") if isinstance(text, dict) else None
    said = config.get("tie_word_embeddings", inner)
    return None if said is None else bool(said)


def _head(path: str, tied: bool) -> bool:
    """A head tied to the embeddings may be stored or not: it is no tensor of its own."""
    return tied and path.startswith("lm_head.")


def _change(later: tuple[int, ...], earlier: tuple[int, ...]) -> str:
    return f"{sizes(later)}, was {sizes(earlier)}"


def _adapter_difference(
    earlier: Path, later: Path, base: Path | None, report: Report | None
) -> Difference:
    """An adapter against its base, or against the adapter of the stage before.

    Names are canonical paths: the base's layout may be another than the adapter's.
    """
    after = read_adapter(later)
    before = read_adapter(earlier) if is_adapter(earlier) else Adapter()
    if not is_adapter(earlier):
        base = earlier
    weights = None if base is None else _Tensors.of(base)
    changed = _Changes(weights, is_adapter(earlier))
    for path, product in after.products.items():
        changed.product(path, product, before.products.get(path), after.any_orientation)
    changed.whole(before, after, report)
    if clash := sorted(after.products.keys() & changed.moved_whole):
        raise UnreadableAdapter(later, f"{clash[0]} is both replaced and adapted")
    tied = weights is not None and (weights.tied or _HEAD not in weights)
    if tied and _HEAD in after.products:
        raise UnreadableAdapter(later, "LoRA of a head that is the embeddings")
    paths = [*after.products, *after.whole]
    gone = [path for path in before.products if path not in after.products]
    return Difference(
        tensors=tuple(dict.fromkeys((*(weights or paths), *changed.moves))),
        moves=changed.moves,
        missing=tuple(gone),
        added=tuple(changed.lost),
        reshaped=changed.reshaped,
        not_finite=tuple(dict.fromkeys(changed.broken)),
        doubled=() if weights is None else tuple(weights.doubled),
        adapter=True,
    )


@dataclass(slots=True)
class _Changes:
    """Collects what an adapter changes."""

    weights: _Tensors | None
    """The base's; None = unknown."""
    from_adapter: bool
    """Compared with another adapter, so that norms of the start are not the base's."""
    moves: dict[str, Move] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    reshaped: dict[str, str] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    moved_whole: set[str] = field(default_factory=set)

    def product(self, path: str, now: Product, before: Product | None, any_way: bool) -> None:
        """What is added to one tensor, against what was added to it before."""
        entry = self._base(path)
        if self.weights is not None and entry is None:
            self.lost.append(path)
        elif entry is not None and not _fits(entry.shape, now.shape, any_way):
            self.reshaped[path] = _change(now.shape, entry.shape)
            return
        start = None if entry is None or self.from_adapter else sum_squares(entry)
        if not now.finite:
            self.broken.append(path)
            self.moves[path] = Move(path, None, start, None)
        elif before is not None and before.shape != now.shape:
            self.reshaped[path] = _change(now.shape, before.shape)
        elif before is not None and not now.same(before):
            moved = now.minus(before)
            if moved.b.any() and moved.a.any():
                self.moves[path] = Move(path, moved.sum_squares(), start, moved.largest())
        elif before is None and now.b.any() and now.a.any():
            self.moves[path] = Move(path, now.sum_squares(), start, now.largest())

    def whole(self, before: Adapter, after: Adapter, report: Report | None) -> None:
        """Tensors stored as they are: by either adapter, the base's where it has none."""
        pairs: dict[str, Pair] = {}
        for path in dict.fromkeys((*before.whole, *after.whole)):
            earlier = before.whole.get(path) or self._base(path)
            later = after.whole.get(path) or self._base(path)
            if earlier is not None and later is not None:
                if earlier.shape == later.shape:
                    pairs[path] = earlier, replace(later, name=path)
                else:
                    self.reshaped[path] = _change(later.shape, earlier.shape)
            elif self.weights is None:
                self.moves[path] = Move(path, None, None, None)
                self.moved_whole.add(path)
            else:
                self.lost.append(path)
        moves, broken = measure(list(pairs.values()), [], report)
        self.moves |= moves
        self.moved_whole |= moves.keys()
        self.broken += broken

    def _base(self, path: str) -> TensorEntry | None:
        if self.weights is None:
            return None
        if path == _HEAD:
            return self.weights.head(self.weights.tied is not False)
        return self.weights.by_path.get(path)


def _fits(base: tuple[int, ...], product: tuple[int, ...], any_way: bool) -> bool:
    """Whether a product can be added to a tensor; a bias is a column, `any_way` transposes."""
    shape = base if len(base) != 1 else (*base, 1)
    return shape == product or (any_way and shape == product[::-1])
