"""The resolver: a manifest's folders and hub ids as checkpoints known by content."""

from __future__ import annotations

import hashlib
from pathlib import Path

from harness import checkpoints
from harness.errors import CheckpointError, first_line
from harness.manifest import BaseSpec, Manifest, StageSpec
from harness.storage.memory import Memory
from harness.types import BASE, Checkpoint


class Resolver:
    """Turns the manifest's folders and hub ids into checkpoints known by content."""

    def __init__(self, manifest: Manifest, folder: Path, memory: Memory):
        self._manifest = manifest
        self._folder = folder
        self._memory = memory
        self._processors: dict[str, str] = {}
        self._base: Checkpoint | None = None

    @property
    def base(self) -> Checkpoint:
        """The study's base. Raises CheckpointError."""
        if self._base is None:
            path = base_folder(self._manifest.base, self._folder)
            if checkpoints.is_adapter(path):
                raise CheckpointError(
                    str(path), "a peft adapter is no base; give the model it was trained on"
                )
            if not checkpoints.has_processor(path):
                raise CheckpointError(
                    str(path), "no tokenizer and processor here; copy them from the base model"
                )
            self._base = Checkpoint(
                path=str(path),
                fingerprint=self._fingerprint(path),
                processor_path=str(path),
                trust_remote_code=self._manifest.base.trust_remote_code,
            )
        return self._base

    def stage(self, spec: StageSpec) -> Checkpoint:
        """A stage's checkpoint: whole, an adapter over the base, or an interpolation."""
        trust = spec.trust_remote_code
        if spec.wise_ft is not None:
            of, other = self._locate(spec.wise_ft.of), self._locate(spec.wise_ft.with_)
            for end in (of, other):
                if checkpoints.is_adapter(end):
                    raise CheckpointError(
                        str(end), "a peft adapter cannot be interpolated; merge it into its model"
                    )
            share = spec.wise_ft.alpha
            parts = [self._fingerprint(of), self._fingerprint(other), repr(share)]
            mixed = hashlib.sha256("|".join(parts).encode()).hexdigest()
            return Checkpoint(
                str(of), mixed, self._processor(of), "", ((str(other), share),), trust
            )
        path = self._locate(spec.path or "")
        if checkpoints.is_adapter(path):
            both = self.base.fingerprint + self._fingerprint(path)
            mixed = hashlib.sha256(both.encode()).hexdigest()
            return Checkpoint(self.base.path, mixed, self.base.processor_path, str(path), (), trust)
        return Checkpoint(
            str(path), self._fingerprint(path), self._processor(path), trust_remote_code=trust
        )

    def processor_fingerprint(self, checkpoint: Checkpoint) -> str:
        """Hash of the processor that a checkpoint uses."""
        path = checkpoint.processor_path
        if path not in self._processors:
            self._processors[path] = checkpoints.processor_fingerprint(Path(path))
        return self._processors[path]

    def _locate(self, text: str) -> Path:
        return Path(self.base.path) if text == BASE else (self._folder / text).absolute()

    def _processor(self, path: Path) -> str:
        return str(path) if checkpoints.has_processor(path) else self.base.processor_path

    def _fingerprint(self, path: Path) -> str:
        stamps = checkpoints.file_stamps(path)
        found = self._memory.recall(str(path), stamps, lambda: checkpoints.fingerprint(path))
        return str(found)


def base_folder(base: BaseSpec, folder: Path) -> Path:
    """Where the base lies; a hub id is fetched (weights and processor files only)."""
    if base.path is not None:
        return (folder / base.path).absolute()
    assert base.hub is not None
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError:
        raise CheckpointError(base.hub, "needs `pip install 'forgeteval[hf]'`") from None
    try:
        patterns = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]
        return Path(snapshot_download(base.hub, revision=base.revision, allow_patterns=patterns))
    except (OSError, ValueError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        why = first_line(error)
        raise CheckpointError(
            base.hub, f"cannot be fetched from the hub ({why}); give a local folder with `path:`"
        ) from None
