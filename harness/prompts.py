"""A prompt: the words around a sample's question, and where its images stand.

`fixed` is the prompt a benchmark intends; `lmm_cl` is what the reference study's program sent.
They differ only where that program put the printed form of its settings in front of the question
and forgot the instruction (`printed_settings`). Most prompts are plain text; a text that marks
places (`<image>`, `<image 2>`) becomes parts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from string import ascii_uppercase

from harness.types import Profile, Prompt, Sample

LETTER = "\nAnswer with the option's letter from the given choices directly."
SHORT = "\nAnswer the question using a single word or phrase."

_MARK = re.compile(r"<image(?: (\d))?>")


def both(prompt: Callable[[Sample], Prompt]) -> Mapping[Profile, Callable[[Sample], Prompt]]:
    """Prompts of a task that the reference study asked in the intended way, or not at all."""
    return {"fixed": prompt, "lmm_cl": prompt}


def then(instruction: str) -> Mapping[Profile, Callable[[Sample], Prompt]]:
    """The commonest prompts: the question as it is, then an instruction."""
    return both(lambda sample: place_images(sample.question + instruction, sample))


def printed_settings(post_prompt: str) -> str:
    """The settings of a task as Python prints them: what LMM_CL put before the question.

    Its functions took the whole dictionary for the first of its entries. Without this the
    published numbers cannot be had again.
    """
    default = {"pre_prompt": "", "post_prompt": post_prompt}
    return repr({"default": default, **default})


def options_block(choices: Sequence[str]) -> str:
    r"""Options as lines.

    >>> options_block(["cat", "dog"])
    'A. cat\nB. dog'
    """
    return "\n".join(
        f"{mark}. {text}" for mark, text in zip(ascii_uppercase, choices, strict=False)
    )


# A model may have learned either form.
_YES_NO = ("yes", "no", "Yes", "No")


def options_of(sample: Sample) -> tuple[str, ...]:
    """The answers that a question leaves open, as a model would write them; () = an open question.

    >>> options_of(Sample("1", "Which?", ("B",), choices=("cat", "dog"), answer_type="letter"))
    ('A', 'B')
    >>> options_of(Sample("2", "Is it?", ("yes",), answer_type="yes_no"))
    ('yes', 'no', 'Yes', 'No')
    """
    if sample.answer_type == "letter":
        return tuple(ascii_uppercase[: len(sample.choices)])
    return sample.choices or (_YES_NO if sample.answer_type == "yes_no" else ())


def place_images(text: str, sample: Sample) -> Prompt:
    """`text` with its marks `<image>` and `<image k>` (k from 1) turned into image slots.

    Plain text stays plain: its images come first. Every image gets exactly one slot: those
    without a mark come first, and a second mark of one image stays text. A sample without images
    (graded elsewhere) keeps the slots its marks name.
    """
    marks = list(_MARK.finditer(text))
    if not marks:
        return text
    known = len(sample.images) or 9
    parts: list[str | int] = []
    placed: set[int] = set()
    start = 0
    for mark in marks:
        index = int(mark[1] or 1) - 1
        if index in placed or not 0 <= index < known:
            continue
        placed.add(index)
        parts += [text[start : mark.start()], index]
        start = mark.end()
    parts.append(text[start:])
    missing = [index for index in range(len(sample.images)) if index not in placed]
    return (*missing, *(part for part in parts if part != ""))


def request_parts(prompt: Prompt, n_images: int) -> tuple[str | int, ...]:
    """A prompt as an engine takes it: text pieces and image slots.

    >>> request_parts("How many?", 2)
    (0, 1, 'How many?')
    """
    return (*range(n_images), prompt) if isinstance(prompt, str) else prompt


def as_text(prompt: Prompt, sample: Sample) -> str:
    """A prompt as one text, image slots as the sample itself marks them."""
    if isinstance(prompt, str):
        return prompt
    numbered = "<image " in "".join((sample.question, *sample.choices))
    pieces = (
        (f"<image {part + 1}>" if numbered else "<image>") if isinstance(part, int) else part
        for part in prompt
    )
    return "".join(pieces)
