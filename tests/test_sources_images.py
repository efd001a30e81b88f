"""Images: every mode becomes upright RGB; every limit is a failed sample with a short reason."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from make_fixtures import picture
from PIL import Image

from harness.data import images
from harness.data.images import FileImage, decode, file_image, pixel_hash
from harness.errors import SampleError

PLAIN = Image.open(BytesIO(picture(5))).convert("RGB")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "I;16", "CMYK", "gif"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    got = decode(picture(5, mode))
    assert (got.mode, got.size) == ("RGB", (32, 24))


def test_sixteen_bits_keep_their_brightness() -> None:
    grey = np.asarray(PLAIN.convert("L")).astype(int)
    got = np.asarray(decode(picture(5, "I;16"))).astype(int)
    assert np.abs(got[..., 0] - grey).max() <= 1
    assert got.max() > 100


def test_exif_turns_the_picture() -> None:
    upright = np.asarray(PLAIN.rotate(-90, expand=True)).astype(int)
    got = np.asarray(decode(picture(5, "exif"))).astype(int)
    assert got.shape == upright.shape == (32, 24, 3)
    assert np.abs(got - upright).mean() < 25  # JPEG


def test_the_first_frame_of_an_animation_counts() -> None:
    got = np.asarray(decode(picture(5, "gif"))).astype(int)
    assert np.abs(got - np.asarray(PLAIN)).mean() < 10
    assert np.abs(got - np.asarray(PLAIN.rotate(180))).mean() > 25


def bomb(width: int, height: int) -> bytes:
    """A PNG of some hundred bytes that says it has width x height pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def svg() -> bytes:
    return b'<svg xmlns="http://www.w3.org/2000/svg"/>'


def floats() -> bytes:
    out = BytesIO()
    Image.fromarray(np.zeros((4, 4), np.float32)).save(out, "TIFF")
    return out.getvalue()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not an image in one of the formats PNG, JPEG"),
        (svg(), "not an image in one of the formats"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not an image in one of the formats"),
        (picture(5)[:70], "broken image"),
        (bomb(11_000, 10_000), "image of 11000 x 10000 pixels; the limit is 100,000,000"),
        (bomb(60_000, 60_000), "image"),
        (floats(), "32-bit floats"),
    ],
)
def test_what_cannot_be_used_has_a_reason_of_one_line(data: bytes, reason: str) -> None:
    with pytest.raises(SampleError) as caught:
        decode(data)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_too_many_bytes_are_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_BYTES", 10)
    with pytest.raises(SampleError, match="limit is 10"):
        decode(picture(5))


@given(st.binary(max_size=200), st.integers(0, 400))
def test_no_bytes_raise_anything_else(noise: bytes, cut: int) -> None:
    for data in (noise, picture(5)[:cut] + noise, picture(5, "exif")[:cut] + noise):
        try:
            assert decode(data).mode == "RGB"
        except SampleError as error:
            assert "\n" not in str(error)


def test_pixels_not_shape_alone_make_the_hash() -> None:
    assert pixel_hash(PLAIN) == pixel_hash(decode(picture(5)))
    assert pixel_hash(PLAIN) != pixel_hash(decode(picture(6)))
    black = [Image.new("RGB", size) for size in ((2, 3), (3, 2))]
    assert pixel_hash(black[0]) != pixel_hash(black[1])


def test_a_missing_file_is_named_without_its_folder(tmp_path: Path) -> None:
    image = FileImage(str(tmp_path / "x.png"), "x.png")
    for act in (image.read, image.decode, lambda: image.sha256):
        with pytest.raises(SampleError) as caught:
            act()
        assert str(caught.value) == "image file 'x.png': No such file or directory"


def test_links_do_not_lead_out_of_the_data_folder(tmp_path: Path) -> None:
    inside, outside = tmp_path / "data", tmp_path / "outside"
    for folder in (inside / "pics", outside):
        folder.mkdir(parents=True)
        (folder / "p.png").write_bytes(picture(5))
    (inside / "pics" / "link.png").symlink_to(outside / "p.png")
    (inside / "out").symlink_to(outside)
    (inside / "within.png").symlink_to("pics/p.png")
    (tmp_path / "linked").symlink_to(inside)
    for folder in (inside, tmp_path / "linked"):
        for name in ("pics/p.png", "within.png"):
            assert file_image(name, str(folder)).decode().size == (32, 24)
        for name in ("pics/link.png", "out/p.png"):
            image = file_image(name, str(folder))
            for act in (image.read, image.decode, lambda image=image: image.sha256):
                with pytest.raises(SampleError, match="is a link that leads out of the data fol"):
                    act()


def test_a_snapshot_of_the_hub_links_to_its_own_blobs(tmp_path: Path) -> None:
    root = tmp_path / "datasets--me--leaves"
    snapshot, blobs = root / "snapshots" / ("0" * 40), root / "blobs"
    for folder in (snapshot / "pics", blobs):
        folder.mkdir(parents=True)
    (blobs / "abc").write_bytes(picture(5))
    (root / "refs.png").write_bytes(picture(5))
    (snapshot / "pics" / "a.png").symlink_to("../../../blobs/abc")
    (snapshot / "pics" / "b.png").symlink_to("../../../refs.png")
    for folder, name in ((snapshot, "pics/a.png"), (snapshot / "pics", "a.png")):
        assert file_image(name, str(folder)).decode().size == (32, 24)
    with pytest.raises(SampleError, match="leads out"):
        file_image("pics/b.png", str(snapshot)).read()


@pytest.mark.parametrize("name", ["a\0.png", "\ud800.png"])
def test_a_path_that_no_file_can_have_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="holds characters that no file name has"):
        file_image(name, "data")
