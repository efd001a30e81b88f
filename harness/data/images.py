"""An image: encoded bytes somewhere (a table cell, a file, an address), decoded when needed.

Images come from other people's data sets, so bytes that are read, pixels and formats that are
decoded (`harness.data.pictures`) and addresses that are fetched have limits. What breaks one is a
failed sample (`SampleError`), never a crash and never a wrong answer.

All implementations are small frozen values: they pickle as a reference, not as pixels.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from harness.errors import DataError, SampleError

if TYPE_CHECKING:
    from PIL import Image as PILImage

# Names of columns whose text is a path to an image.
IMAGE_COLUMN = re.compile(r"images?|image_\d+|image_path|file_name")
MAX_BYTES = 200_000_000
DOWNLOAD_THREADS = 16
DOWNLOAD_ATTEMPTS = 3
DOWNLOAD_TIMEOUT_S = 20
MAX_DOWNLOAD_BYTES = 50_000_000


def decode(data: bytes) -> PILImage.Image:
    """The picture in `data` as RGB, upright (`harness.data.pictures`). Raises SampleError."""
    if len(data) > MAX_BYTES:
        raise SampleError(f"image of {len(data):,} bytes; the limit is {MAX_BYTES:,}")
    from harness.data.pictures import decoded  # Pillow is loaded with the first picture

    return decoded(data)


def pixel_hash(picture: PILImage.Image) -> str:
    """SHA-256 over size and pixels (hex): equal for the same picture in another encoding."""
    digest = hashlib.sha256(f"{picture.width}x{picture.height}:".encode())
    digest.update(picture.tobytes())
    return digest.hexdigest()


class Cells(Protocol):
    """A table that can hand out the encoded bytes of one image cell, now or in another process."""

    def image_bytes(self, row: int, column: str, item: int | None) -> bytes: ...
    def __hash__(self) -> int: ...


@lru_cache(maxsize=200_000)
def _cell_sha256(cells: Cells, row: int, column: str, item: int | None) -> str:
    return hashlib.sha256(cells.image_bytes(row, column, item)).hexdigest()


@dataclass(frozen=True, slots=True)
class CellImage:
    """The image in one cell of a table: `item` counts within cells that hold a list."""

    cells: Cells
    row: int
    column: str
    item: int | None = None

    @property
    def sha256(self) -> str:
        """Hash of the encoded bytes (hex)."""
        return _cell_sha256(self.cells, self.row, self.column, self.item)

    def read(self) -> bytes:
        """The encoded bytes. Raises SampleError."""
        return self.cells.image_bytes(self.row, self.column, self.item)

    def decode(self) -> PILImage.Image:
        """The picture as RGB. Raises SampleError."""
        return decode(self.read())


@lru_cache(maxsize=200_000)
def _file_sha256(path: str, modified_ns: int) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@dataclass(frozen=True, slots=True)
class FileImage:
    """An image file. `name` is how the data set calls it and how messages do."""

    path: str
    name: str
    folder: str = ""
    """Folder that the file must lie in, whatever its links say; "" = anywhere."""

    @property
    def sha256(self) -> str:
        """Hash of the encoded bytes (hex). Raises SampleError."""
        self._refuse_outside()
        try:
            return _file_sha256(self.path, Path(self.path).stat().st_mtime_ns)
        except OSError as error:
            raise SampleError(f"image file {self.name!r}: {error.strerror}") from None

    def read(self) -> bytes:
        """The encoded bytes. Raises SampleError."""
        self._refuse_outside()
        try:
            if Path(self.path).stat().st_size > MAX_BYTES:
                raise SampleError(f"image file {self.name!r} is larger than {MAX_BYTES:,} bytes")
            return Path(self.path).read_bytes()
        except OSError as error:
            raise SampleError(f"image file {self.name!r}: {error.strerror}") from None

    def _refuse_outside(self) -> None:
        """Raises SampleError for a file that links take out of the data folder."""
        if not self.folder:
            return
        real = os.path.realpath(self.path)
        if not any(real.startswith(root) for root in _roots(self.folder)):
            raise SampleError(
                f"image file {self.name!r} is a link that leads out of the data folder; "
                "copy the picture into it"
            )

    def decode(self) -> PILImage.Image:
        """The picture as RGB. Raises SampleError."""
        return decode(self.read())


def file_image(name: object, folder: str) -> FileImage:
    """The image file that a data set names, `name` being a path from its folder.

    Raises ValueError for what is no path, or one that leads out of the folder.
    """
    if not isinstance(name, str):
        raise ValueError(f"an image is given as {type(name).__name__}, expected a path")
    inside = os.path.normpath(name)
    if Path(inside).is_absolute() or inside.startswith(".."):
        raise ValueError(f"image path {name!r} leads out of the data folder")
    if "\0" in name or re.search(r"[\ud800-\udfff]", name):
        raise ValueError(f"image path {name!r} holds characters that no file name has")
    return FileImage(str(Path(folder) / inside), name, folder)


@lru_cache(maxsize=64)
def _roots(folder: str) -> tuple[str, ...]:
    """What the real path of a file in `folder` starts with; the folder itself may be a link.

    A snapshot in the hub's cache consists of links to `blobs` beside `snapshots`, which is part
    of the same data set.
    """
    real = os.path.realpath(folder)
    roots = [real]
    if found := re.match(r"(.*/(?:datasets|models|spaces)--[^/]+)/snapshots/[0-9a-f]{40}\b", real):
        roots.append(f"{found[1]}/blobs")
    return tuple(root.rstrip("/") + "/" for root in roots)


@dataclass(frozen=True, slots=True)
class UrlImage:
    """An image known by its address and the hash of its bytes; read from the download cache.

    Links rot and pictures behind them are replaced: only bytes with the right hash count.
    """

    url: str
    sha256: str

    def _cached(self) -> Path:
        return cache_folder() / "images" / self.sha256[:2] / self.sha256

    def kept(self) -> bytes | None:
        """The encoded bytes in the cache; None where it lacks them or holds others."""
        try:
            with self._cached().open("rb") as file:
                data = file.read(MAX_DOWNLOAD_BYTES + 1)
        except OSError:
            return None
        # Hashed each time, far quicker than decoding it: disks err and caches are shared.
        return data if hashlib.sha256(data).hexdigest() == self.sha256 else None

    def read(self) -> bytes:
        """The encoded bytes, from the cache or else fetched. Raises SampleError."""
        data = self.kept()
        if data is None:
            data = _fetch(self.url)
            found = hashlib.sha256(data).hexdigest()
            if found != self.sha256:
                raise SampleError(f"sha256 of the picture at {_host(self.url)} has changed")
            try:
                self._keep(data)
            except OSError as error:
                reason = f"the download cache cannot be written: {error.strerror}"
                raise SampleError(reason) from None
        return data

    def _keep(self, data: bytes) -> None:
        cached = self._cached()
        cached.parent.mkdir(parents=True, exist_ok=True)
        part = cached.with_suffix(f".{os.getpid()}.{time.monotonic_ns()}")
        try:
            part.write_bytes(data)
            part.replace(cached)
        except OSError:
            part.unlink(missing_ok=True)
            raise

    def decode(self) -> PILImage.Image:
        """The picture as RGB. Raises SampleError."""
        return decode(self.read())


def download(images: Sequence[UrlImage]) -> dict[UrlImage, str]:
    """Fetch many images in parallel into the cache; returns image -> reason for those missing.

    Raises DataError, before anything is fetched, when the cache cannot take it.
    """

    def reason(image: UrlImage) -> str:
        try:
            image.read()
        except SampleError as error:
            return str(error)
        return ""

    distinct = list(dict.fromkeys(images))
    with ThreadPoolExecutor(DOWNLOAD_THREADS) as pool:
        kept = pool.map(lambda image: image.kept() is not None, distinct)
        missing = [image for image, there in zip(distinct, kept, strict=True) if not there]
        if missing:
            _refuse_unwritable(cache_folder())
        reasons = zip(missing, pool.map(reason, missing), strict=True)
        return {image: why for image, why in reasons if why}


def cache_folder() -> Path:
    """Where downloads are kept: `$FORGETEVAL_CACHE`, else the user's cache folder."""
    named = os.environ.get("FORGETEVAL_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "forgeteval"


def _refuse_unwritable(cache: Path) -> None:
    """Raises DataError for a cache folder that cannot be made or written into."""
    try:
        (cache / "images").mkdir(parents=True, exist_ok=True)
        if not os.access(cache / "images", os.W_OK | os.X_OK):
            raise PermissionError(0, "Permission denied")
    except OSError as error:
        named = "FORGETEVAL_CACHE" if os.environ.get("FORGETEVAL_CACHE") else "download cache"
        text = f"got {str(cache)!r}, which cannot hold pictures ({error.strerror})"
        cure = "expected a folder to write into; set FORGETEVAL_CACHE to one"
        raise DataError(named, f"{text}; {cure}") from None


def _host(url: str) -> str:
    """The host of an address, for a reason of one line: no login, no odd characters."""
    host = re.split(r"[/?#]", url.split("//", 1)[-1], maxsplit=1)[0].rsplit("@", 1)[-1]
    return re.sub(r"[^!-~]", "?", host[:60])


@lru_cache(maxsize=100_000)
def _dead(url: str) -> list[str]:
    """The reason why `url` is dead, once known: a dead link is tried once per process."""
    return []


def _fetch(url: str) -> bytes:
    """The bytes behind an http(s) address; transient failures are tried again."""
    if not url.startswith(("http://", "https://")):
        raise SampleError("image address is not http or https")
    if dead := _dead(url):
        raise SampleError(dead[0])
    reason = ""
    for attempt in range(DOWNLOAD_ATTEMPTS):
        if attempt:
            time.sleep(0.5 * 2**attempt)
        try:
            # Many image hosts refuse Python's default agent.
            request = urllib.request.Request(url, headers={"User-Agent": "forgeteval"})
            with urllib.request.urlopen(request, timeout=DOWNLOAD_TIMEOUT_S) as reply:
                data: bytes = reply.read(MAX_DOWNLOAD_BYTES + 1)
            if len(data) > MAX_DOWNLOAD_BYTES:
                reason = f"picture at {_host(url)} is larger than {MAX_DOWNLOAD_BYTES:,} bytes"
                break
            return data
        except urllib.error.HTTPError as error:
            reason = f"dead link: HTTP {error.code} from {_host(url)}"
            if error.code < 500 and error.code not in (408, 429):
                break
        except (http.client.InvalidURL, ValueError) as error:
            # Spaces, control characters, brackets without an end, characters beyond ASCII.
            reason = f"no web address: {_host(url)} ({type(error).__name__}); percent-encode it"
            break
        # What is no HTTP: torn bodies, a garbled status line, headers without end.
        except (OSError, http.client.HTTPException) as error:
            reason = f"dead link: no answer from {_host(url)} ({type(error).__name__})"
    _dead(url).append(reason)
    raise SampleError(reason)
