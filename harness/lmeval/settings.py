"""Settings: which of lm-eval's tasks a manifest names, and what it changes of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, model_validator

PREFIX = "lm_eval:"
# lm-eval's own names: a few have brackets; a task that only a group defines is `group::task`.
NAME = re.compile(r"lm_eval:[A-Za-z0-9_][A-Za-z0-9 _.+()/:-]{0,159}")
# What `lm_eval` seeds its few-shot sampler with unless told otherwise.
FEWSHOT_SEED = 1234

Shots = Annotated[int, Field(ge=0, le=1000)]


def is_lm_eval(name: str) -> bool:
    """Whether a benchmark's name says that lm-eval defines it."""
    return name.startswith(PREFIX)


def check_benchmark_name(name: str) -> str:
    """The name itself, or ValueError. It becomes a part of a folder's name."""
    if not NAME.fullmatch(name) or ".." in name:
        raise ValueError(f"got {name!r:.80}, expected lm_eval: and the name of a task or a group")
    return name


class LmEvalSettings(BaseModel):
    """`suite.lm_eval` of a manifest: what `lm_eval` takes on its command line."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    include_path: str | list[str] = []
    """Folders with task files of your own, relative to the manifest. Their Python files are run."""
    num_fewshot: Shots | dict[str, Shots] | None = None
    """Examples before each question: one number, or by task or group. Without: as the task says."""
    fewshot_seed: StrictInt = FEWSHOT_SEED
    limit: Annotated[StrictInt, Field(ge=1)] | None = None
    """The first documents of each task, as `lm_eval --limit`. Without: `suite.limit`."""
    apply_chat_template: StrictBool = False
    """Put the model's chat template around the prompts."""
    fewshot_as_multiturn: StrictBool | None = None
    """Examples as turns of the chat. Without: as `lm_eval` does, whenever the template is used."""
    system_instruction: str | None = None
    gen_kwargs: dict[str, Any] = {}
    """Generation settings that replace a task's, for example `max_gen_toks`."""
    metric: dict[str, str] = {}
    """Task -> its headline: `acc_norm`, or with a filter `exact_match,flexible-extract`."""
    allow_code: StrictBool = False
    """Run tasks that execute what the model wrote (lm-eval calls them unsafe)."""

    @model_validator(mode="after")
    def _turns_need_a_template(self) -> LmEvalSettings:
        if self.fewshot_as_multiturn and not self.apply_chat_template:
            raise ValueError("fewshot_as_multiturn needs `apply_chat_template: true`")
        return self

    @property
    def include_paths(self) -> list[str]:
        """The include paths as written."""
        return [self.include_path] if isinstance(self.include_path, str) else self.include_path

    def folders(self, base: Path) -> list[Path]:
        """The include paths, absolute."""
        return [(base / Path(text).expanduser()).absolute() for text in self.include_paths]

    @property
    def multiturn(self) -> bool:
        """Whether few-shot examples are turns of the chat."""
        given = self.fewshot_as_multiturn
        return self.apply_chat_template if given is None else given

    def shots(self, task: str, asked: str) -> int | None:
        """Examples that the manifest wants for a task that was asked for by the name `asked`."""
        if isinstance(self.num_fewshot, dict):
            return self.num_fewshot.get(task, self.num_fewshot.get(asked))
        return self.num_fewshot
