"""Requests: a task's samples as an engine is asked them, and one digest of all that is asked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from string import ascii_uppercase
from typing import Any

from harness.errors import DataError, SampleError
from harness.prompts import request_parts
from harness.types import Profile, Request, Sample, Task


def requests(task: Task, samples: Sequence[Sample], profile: Profile) -> list[Request]:
    """The requests of a task, one per sample, in the samples' order."""
    if profile not in task.prompts:
        known = ", ".join(task.prompts)
        raise DataError(task.name, f"has no prompt profile {profile!r}; it has {known}")
    prompt = task.prompts[profile]
    built = []
    for sample in samples:
        parts = request_parts(prompt(sample), len(sample.images))
        # Lettered questions are asked for a letter, so letters are what a likelihood compares.
        lettered = sample.answer_type == "letter"
        choices = tuple(ascii_uppercase[: len(sample.choices)]) if lettered else sample.choices
        built.append(Request(sample.id, parts, sample.images, task.decoding, choices))
    return built


def data_digest(task: Task, samples: Sequence[Sample], profile: Profile) -> str:
    """Hash (hex) of everything a model is asked and graded by, images included, in order."""
    digest = hashlib.sha256()
    for sample, request in zip(samples, requests(task, samples, profile), strict=True):
        row = [
            [sample.id, sample.group, sample.question, sample.answers, sample.choices],
            [sample.answer_type, sample.chance, sample.doc, request.parts],
            [_image_identity(image) for image in sample.images],
        ]
        digest.update(json.dumps(row, default=str).encode())
    return digest.hexdigest()


def _image_identity(image: Any) -> str:
    try:
        return str(image.sha256)
    except SampleError as error:
        return f"unreadable: {error}"
