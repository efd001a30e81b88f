"""A real Chromium for the report: opened from disk, watched for requests and errors.

As a program it makes the README's picture: `python tests/report_browser.py REPORT.html PICTURE.png`.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

INSTALL = "needs Chromium: apt-get install -y chromium"
NAMES = ("chromium", "chromium-browser", "google-chrome")


def chromium() -> str | None:
    """Where the browser is; None where it is not installed."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


@dataclass
class Opened:
    """A page and what it did that a report must not do."""

    page: Any
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


@contextmanager
def opened(file: Path, **context: Any) -> Iterator[Opened]:
    """The file in a fresh browser; `context`: options of a Playwright context (viewport, ...)."""
    from playwright.sync_api import sync_playwright

    # Chromium's sandbox needs privileges that containers run by root do not have.
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=sandbox)
        page = browser.new_context(**context).new_page()
        found = Opened(page)
        page.on("request", lambda request: found.requests.append(request.url))
        page.on("pageerror", lambda error: found.errors.append(str(error)))
        page.on(
            "console",
            lambda message: (
                found.errors.append(message.text) if message.type in ("error", "warning") else None
            ),
        )
        page.goto(file.absolute().as_uri())
        yield found
        browser.close()


def picture(report: Path, out: Path) -> None:
    """The first screen of a report, light."""
    view = {"width": 1280, "height": 1130}
    with opened(report, viewport=view, color_scheme="light") as found:
        found.page.wait_for_selector("#provenance")
        out.parent.mkdir(parents=True, exist_ok=True)
        found.page.screenshot(path=str(out))


if __name__ == "__main__":
    if chromium() is None:
        sys.exit(INSTALL)
    picture(Path(sys.argv[1]), Path(sys.argv[2]))
