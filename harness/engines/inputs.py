"""Processed inputs: token ids and pixel tensors, made once per study and kept for every checkpoint.

A `Row` is one request after the processor. Pictures are processed once per distinct picture, not
once per question. Both stores are bounded in bytes and keep what came first: a sweep reads its
requests in the same order for every checkpoint, where dropping the oldest would drop exactly what
is needed next.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image as PILImage

from harness.engines.prompts import Prompter, picture_key, prompt_key
from harness.errors import SampleError, first_line
from harness.types import Request

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Row:
    """One request, processed. Tensors are on the CPU."""

    tokens: Tensors
    """`input_ids` and whatever else has one value per token, each of shape (length,)."""
    side: Tensors
    """Small tensors about the pictures (sizes, grids); first dimension: pictures."""
    picture: str
    """`picture_key`; "" when there are no pictures."""
    n_pictures: int
    pixels: Tensors | None
    """Large tensors of the pictures; None where they are not needed."""

    @property
    def length(self) -> int:
        """Prompt tokens, image tokens included."""
        return int(self.tokens["input_ids"].shape[0])


class Inputs:
    """Requests -> rows for one processor; remembers within a budget of bytes."""

    def __init__(self, prompter: Prompter, limit_bytes: int):
        self.prompter = prompter
        self.preprocessed = 0
        """How often the image processor ran (pictures of one prompt together count once)."""
        self._processor = prompter.processor
        self._memo = _PictureMemo(self._processor.image_processor)
        self._processor.image_processor = self._memo
        self._rows: dict[tuple[object, ...], Row | str] = {}
        self._pixels: dict[str, Any] = {}
        self._room = limit_bytes

    def row(self, request: Request, needs_pixels: Callable[[str], bool]) -> Row:
        """The processed request. `needs_pixels(picture key)` says whether pixels will be used.

        Raises SampleError (one line) when a picture cannot be read or the prompt cannot be made.
        """
        picture = picture_key(request)
        key = prompt_key(request)
        known = self._rows.get(key)
        if isinstance(known, str):
            raise SampleError(known)
        wanted = bool(picture) and needs_pixels(picture)
        if known is not None and (not wanted or picture in self._pixels):
            return _with_pixels(known, self._pixels.get(picture) if wanted else None)
        try:
            row = self._process(request, picture)
        except SampleError as error:
            self._rows[key] = str(error)
            raise
        if known is None:
            self._keep_row(key, row)
        return row

    def _process(self, request: Request, picture: str) -> Row:
        if request.verbatim and not picture:
            ids = torch.tensor(self.prompter.prompt_tokens(request))
            return Row({"input_ids": ids}, {}, "", 0, None)
        text = self.prompter.text(request)
        specials = request.verbatim or self.prompter.adds_specials(text)
        options = {"return_tensors": "pt", "add_special_tokens": specials}
        if not picture:
            output = dict(self._processor(text=[text], **options))
            return _row(output, frozenset(), "", 0)
        slots = [part for part in request.parts if isinstance(part, int)]
        processed = self._pixels.get(picture)
        # The processor wants pictures even where their tensors are known; any will do.
        images = [_BLANK if processed else request.images[slot].decode() for slot in slots]
        self._memo.known = processed
        try:
            output = dict(self._processor(images=[images], text=[text], **options))
        except (ValueError, TypeError, RuntimeError, IndexError, ZeroDivisionError) as error:
            # A picture of impossible shape, or marks that do not fit: this sample's trouble only.
            raise SampleError(f"the processor refused it: {first_line(error)}") from None
        made = self._memo.last
        if processed is None:
            self.preprocessed += 1
            self._keep_pixels(picture, made)
        return _row(output, frozenset(made), picture, len(slots))

    def _keep_row(self, key: tuple[object, ...], row: Row) -> None:
        size = _bytes(row.tokens) + _bytes(row.side)
        if size <= self._room:
            self._room -= size
            self._rows[key] = _with_pixels(row, None)

    def _keep_pixels(self, picture: str, made: Any) -> None:
        size = _bytes({k: v for k, v in made.items() if isinstance(v, torch.Tensor)})
        if size <= self._room:
            self._room -= size
            self._pixels[picture] = made


class _PictureMemo:
    """Stands in for an image processor: hands back `known` if set, else runs the real one."""

    def __init__(self, real: Any):
        self._real = real
        self.known: Any = None
        self.last: Any = None

    def __call__(self, images: Any, **options: Any) -> Any:
        self.last = self.known if self.known is not None else self._real(images, **options)
        return self.last

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def collate(rows: Sequence[Row], pad: int, *, left: bool) -> dict[str, torch.Tensor]:
    """Token tensors of shape (rows, longest), padded on one side, with `attention_mask`."""
    longest = max(row.length for row in rows)
    names = list(dict.fromkeys(name for row in rows for name in row.tokens))
    batch = {}
    for name in names:
        filler = pad if name == "input_ids" else 0
        out = torch.full((len(rows), longest), filler, dtype=torch.long)
        for i, row in enumerate(rows):
            span = slice(longest - row.length, longest) if left else slice(0, row.length)
            if name in row.tokens:
                out[i, span] = row.tokens[name]
        batch[name] = out
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    for i, row in enumerate(rows):
        mask[i, (longest - row.length if left else 0) : (longest if left else row.length)] = 1
    return {**batch, "attention_mask": mask}


def join(parts: Sequence[Tensors]) -> dict[str, torch.Tensor]:
    """Tensors of several picture sets one after the other; further dimensions padded with 0.

    Zero tiles are what the processors themselves pad with; the models skip them by image size.
    """
    joined = {}
    for name in dict.fromkeys(name for part in parts for name in part):
        tensors = [part[name] for part in parts if name in part]
        shape = [max(sizes) for sizes in zip(*(t.shape[1:] for t in tensors), strict=True)]
        padded = []
        for tensor in tensors:
            if list(tensor.shape[1:]) != shape:
                wide = tensor.new_zeros((tensor.shape[0], *shape))
                wide[tuple(slice(0, n) for n in tensor.shape)] = tensor
                tensor = wide
            padded.append(tensor)
        joined[name] = torch.cat(padded)
    return joined


_BLANK = PILImage.new("RGB", (1, 1))


def _row(output: dict[str, Any], made: frozenset[str], picture: str, n_pictures: int) -> Row:
    tensors = {k: v for k, v in output.items() if isinstance(v, torch.Tensor)}
    tokens = {
        name: tensor[0]
        for name, tensor in tensors.items()
        if name not in made and name != "attention_mask"
    }
    about = {name: tensor for name, tensor in tensors.items() if name in made}
    pixels = {name: tensor for name, tensor in about.items() if name.startswith("pixel")}
    side = {name: tensor for name, tensor in about.items() if name not in pixels}
    return Row(tokens, side, picture, n_pictures, pixels or None)


def _with_pixels(row: Row, made: Any) -> Row:
    pixels = None
    if made is not None:
        pixels = {k: v for k, v in made.items() if k.startswith("pixel")}
    return Row(row.tokens, row.side, row.picture, row.n_pictures, pixels)


def _bytes(tensors: Mapping[str, torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
