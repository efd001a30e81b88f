"""An engine that answers by rule, and folders for it: a fault or a drift, without a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from harness.errors import CheckpointError
from harness.types import Checkpoint, Prediction, Request


def write_checkpoint(folder: Path, number: int) -> None:
    """A model folder of one tensor, as far as the harness looks."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "processor_config.json"):
        (folder / name).write_text("{}")
    (folder / "config.json").write_text('{"model_type": "tiny"}')
    header = b'{"w":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}}'
    data = len(header).to_bytes(8, "little") + header + bytes([number] * 8)
    (folder / "model.safetensors").write_bytes(data)


class ReplayEngine:
    """`answer(checkpoint, request)` gives the text; None is a failed prediction."""

    identity: ClassVar = {"engine": "replay", "dtype": "float32", "library": "tests 0"}

    def __init__(
        self,
        answer: Callable[[Checkpoint, Request], str | None],
        broken: Sequence[str] = (),
        stop_after: int | None = None,
    ):
        self.answer = answer
        self.broken = broken
        self.stop_after = stop_after
        self.loaded: list[str] = []
        self.asked: list[tuple[str, str]] = []
        self.closed = False

    def load(self, checkpoint: Checkpoint) -> None:
        if checkpoint.fingerprint in self.broken:
            raise CheckpointError(checkpoint.path, "tensor lm_head.weight is missing")
        self.loaded.append(checkpoint.fingerprint)
        self.current = checkpoint

    def generate(self, requests: Sequence[Request]) -> Iterator[Prediction]:
        for request in reversed(requests):  # engines answer in any order
            if self.stop_after is not None and len(self.asked) >= self.stop_after:
                raise KeyboardInterrupt
            self.asked.append((self.current.fingerprint, request.sample_id))
            text = self.answer(self.current, request)
            if text is None:
                yield Prediction(request.sample_id, status="failed", reason="no picture")
            else:
                yield Prediction(request.sample_id, text=text, finish_reason="stop", n_tokens=1)

    log_likelihood = generate

    def close(self) -> None:
        self.closed = True
