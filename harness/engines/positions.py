"""Positions of an answer, read for a probe: what the model would say next, token by token.

Both engines read their scores here, before anything bends them, so that a probe can only differ
in the numbers that an engine computes. Where an answer is forced, the given token is then made
the only one possible: one road for prompts, pictures, caches and batches, forced or not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import LogitsProcessor

from harness.types import Prediction, Probe, Reading, Request

# Probabilities are kept to this: the rounding of other batches does not show in the stored file.
DECIMALS = 6
# A probability of 0 as a logarithm that files and sums can hold.
LOWEST_LOG = -1e4

Position = dict[str, Any]
"""One row at one position, as plain values that cross processes: `top1`, `masses`, `peaks`, and
where they were asked for `ids` and `logs` (see `Probe.top_ids`, `Probe.top_logs`)."""


class ClassIndex:
    """Token classes as tensors, made once."""

    def __init__(self, classes: Mapping[str, Sequence[int]]):
        self.names = list(classes)
        self._ids = [torch.tensor(classes[name], dtype=torch.long) for name in self.names]

    def of(self, shares: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(rows, n_classes) sums and maxima of (rows, vocabulary) probabilities."""
        if not self.names:
            return (shares.new_zeros((len(shares), 0)),) * 2
        self._ids = [ids.to(shares.device) for ids in self._ids]
        parts = [shares[:, ids] for ids in self._ids]
        # A sum of rounded shares may exceed 1 by a rounding error.
        sums = torch.stack([part.sum(-1) for part in parts], -1).clamp(max=1.0)
        return sums, torch.stack([part.amax(-1) for part in parts], -1)


def read_positions(
    scores: torch.Tensor, probes: Sequence[Probe], steps: Sequence[int], classes: ClassIndex
) -> list[Position]:
    """What (rows, vocabulary) scores say; row r stands at position `steps[r]` of its answer.

    Raises ValueError where the base's tokens are not in this vocabulary.
    """
    logs = scores.float().log_softmax(-1)
    sums, peaks = (rounded(part) for part in classes.of(logs.exp()))
    found: list[Position] = [
        {"top1": top1, "masses": dict(zip(classes.names, row, strict=True))}
        for top1, row in zip(logs.argmax(-1).tolist(), sums, strict=True)
    ]
    wanted: dict[int, list[int]] = {}
    for row, (probe, step) in enumerate(zip(probes, steps, strict=True)):
        if probe.peaks:
            found[row]["peaks"] = dict(zip(classes.names, peaks[row], strict=True))
        # One token fewer than there are leaves something for the rest to be.
        size = len(probe.top_ids[step]) if probe.top_ids else min(probe.top_k, logs.shape[1] - 1)
        wanted.setdefault(size, []).append(row)
    for size, rows in wanted.items():
        if not size:
            continue
        part = logs[rows]
        if probes[rows[0]].top_ids:
            listed = [probes[row].top_ids[steps[row]] for row in rows]
            if max(map(max, listed)) >= logs.shape[1]:  # a GPU would not survive the attempt
                raise ValueError("the base's tokens are not in this model's vocabulary")
            ids = torch.tensor(listed, dtype=torch.long, device=logs.device)
        else:
            ids = part.topk(size, dim=-1).indices
        rest = part.scatter(-1, ids, -torch.inf).logsumexp(-1, keepdim=True)
        buckets = rounded(torch.cat([part.gather(-1, ids), rest], -1).clamp(min=LOWEST_LOG))
        for row, names, values in zip(rows, ids.tolist(), buckets, strict=True):
            found[row] |= {"ids": names, "logs": values}
    return found


def force(scores: torch.Tensor, rows: Sequence[int], tokens: Sequence[int]) -> None:
    """Make `tokens[i]` the only possible token of `rows[i]`, in place."""
    scores[list(rows)] = -torch.inf
    scores[list(rows), list(tokens)] = 0.0


class Reader(LogitsProcessor):  # type: ignore[misc]
    """Reads a transformers batch at every step, and forces the answers that are given.

    `ends`: the tokens that end an answer; the first of them is put after a forced answer that is
    shorter than others of its batch.
    """

    def __init__(self, probes: Sequence[Probe], classes: ClassIndex, ends: Sequence[int]):
        self._probes = probes
        self._classes = classes
        self._ends = ends
        self._step = 0
        self._done = [False] * len(probes)
        self.positions: list[list[Position]] = [[] for _ in probes]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        step = self._step
        if step:
            last = input_ids[:, -1].tolist()
            self._done = [
                done or token in self._ends for done, token in zip(self._done, last, strict=True)
            ]
        self._step += 1
        live = [
            row
            for row, probe in enumerate(self._probes)
            if (step < len(probe.tokens) if probe.tokens else not self._done[row])
        ]
        if live:
            probes = [self._probes[row] for row in live]
            read = read_positions(scores[live], probes, [step] * len(live), self._classes)
            for row, position in zip(live, read, strict=True):
                self.positions[row].append(position)
        forced = [row for row, probe in enumerate(self._probes) if probe.tokens]
        if forced:
            scores = scores.clone()
            given = [self._probes[row].tokens for row in forced]
            force(scores, forced, [t[step] if step < len(t) else self._ends[0] for t in given])
        return scores


def with_reading(
    answer: Prediction, request: Request, tokens: Sequence[int], positions: Sequence[Position]
) -> Prediction:
    """The prediction with what its request's probe read; a forced answer is not the model's own.

    `tokens`: the new tokens, of which the first `answer.n_tokens` are the answer.
    """
    probe = request.probe or Probe()
    if not probe.tokens:
        return replace(answer, reading=reading_of(probe, tokens[: answer.n_tokens], positions))
    return replace(
        answer,
        text="",
        finish_reason="forced",
        n_tokens=len(probe.tokens),
        reading=reading_of(probe, probe.tokens, positions),
    )


def reading_of(probe: Probe, tokens: Sequence[int], positions: Sequence[Position]) -> Reading:
    """The positions of one answer put together; `tokens`: the answer, its end token included."""
    used = positions[: len(tokens)]
    names = list(used[0]["masses"]) if used else []
    logs = tuple(tuple(p["logs"]) for p in used if "logs" in p)
    if probe.top_logs:
        pairs = [kl(a, b) for a, b in zip(probe.top_logs, logs, strict=True)]
        ids: tuple[tuple[int, ...], ...] = ()
    else:
        pairs = [(0.0, 0.0)] * len(logs)  # what others are compared with
        ids = tuple(tuple(p["ids"]) for p in used if "ids" in p)
    return Reading(
        tokens=tuple(tokens),
        top1=tuple(p["top1"] for p in used),
        masses={name: tuple(p["masses"][name] for p in used) for name in names},
        peaks={name: tuple(p["peaks"][name] for p in used) for name in names if probe.peaks},
        top_ids=ids,
        top_logs=logs if ids else (),
        kl_forward=tuple(forward for forward, _ in pairs),
        kl_reverse=tuple(reverse for _, reverse in pairs),
    )


def kl(base: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """(KL(base || other), KL(other || base)) of log-probabilities (k + 1,) of the same buckets."""
    p, q = np.asarray(base, np.float64), np.asarray(other, np.float64)
    return _kl(p, q), _kl(q, p)


def _kl(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    # Rounded probabilities may add up to a KL that is a rounding error below 0.
    return round(max(0.0, float(np.exp(p) @ (p - q))), DECIMALS)


def rounded(values: torch.Tensor) -> list[list[float]]:
    """(rows, k) values as lists, as precise as they are kept."""
    # On the processor: Apple's devices have no double precision.
    rows: list[list[float]] = values.cpu().double().round(decimals=DECIMALS).tolist()
    return rows
