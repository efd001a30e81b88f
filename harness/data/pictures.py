"""Pictures: encoded bytes of strangers decoded to RGB, within limits.

The one module that Pillow decodes in; it is loaded with the first picture (`harness.data.images`).
"""

from __future__ import annotations

import warnings
from io import BytesIO

import numpy as np
from PIL import Image as PILImage
from PIL import ImageOps, UnidentifiedImageError

from harness.errors import SampleError

# About 300 MB as RGB. The largest real images of the suite (infographics) stay below 60 million;
# Pillow itself warns at 89 million and refuses at 179 million.
MAX_PIXELS = 100_000_000
# What data sets hold in practice. Formats that run programs (EPS) or have a history of unsafe
# decoders are not opened.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")


def decoded(data: bytes) -> PILImage.Image:
    """The picture in `data` as RGB, upright.

    EXIF rotation is applied; of animations the first frame counts; transparency is dropped (as
    `convert("RGB")` of the reference programs does); 16-bit grey keeps its high byte.
    Raises SampleError with a one-line reason.
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns of large pictures and odd tags; what matters is refused below.
            warnings.simplefilter("ignore")
            picture = PILImage.open(BytesIO(data), formats=FORMATS)
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise SampleError(
                    f"image of {width} x {height} pixels; the limit is {MAX_PIXELS:,}"
                )
            picture.load()
            return _as_rgb(ImageOps.exif_transpose(picture))
    except SampleError:
        raise
    except UnidentifiedImageError:
        raise SampleError(f"not an image in one of the formats {', '.join(FORMATS)}") from None
    # Boundary: decoders of untrusted bytes raise almost anything (struct.error, SyntaxError, ...).
    except Exception as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise SampleError(f"broken image: {reason}") from None


def _as_rgb(picture: PILImage.Image) -> PILImage.Image:
    """Any mode to RGB; high bit depths are scaled to 8 bits where the range is known."""
    if picture.mode.startswith("I"):
        values = np.asarray(picture)
        if values.min() < 0 or values.max() > 65535:
            raise SampleError(f"image of mode {picture.mode} with values beyond 16 bits")
        picture = PILImage.fromarray((values >> 8).astype(np.uint8))
    elif picture.mode == "F":
        raise SampleError("image of 32-bit floats: their range is not known")
    return picture.convert("RGB")
