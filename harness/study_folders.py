"""Study folders: where a study's results lie, whatever a user calls it by.

What reads results begins here, and knows neither plan nor engines.
"""

from __future__ import annotations

from pathlib import Path

from harness.errors import ResultsError, did_you_mean
from harness.manifest import Manifest, read_manifest
from harness.names import check_name

DEFAULT_RESULTS = "results"


def results_of(manifest: Manifest, folder: Path, results: Path | None) -> Path:
    """The results of a manifest that lies in `folder`; `results`: the folder of all studies.

    Without it the manifest's own, else `results` in the working directory.
    """
    named = folder / manifest.results if manifest.results else None
    return (results or named or Path(DEFAULT_RESULTS)) / manifest.study


def study_folder(target: str, results: Path | None = None) -> Path:
    """The results of a study named by its manifest, its folder, or its name under `results`.

    Raises ResultsError listing the studies there are.
    """
    file = Path(target)
    if file.suffix in (".yaml", ".yml"):
        manifest = read_manifest(file, check_paths=False)
        folder = results_of(manifest, file.parent, results)
        if not (folder / "study.json").is_file():
            raise ResultsError(target, f"not scored yet; run `forgeteval score {target}`")
        return folder
    if (file / "study.json").is_file():
        return file
    place = results or Path(DEFAULT_RESULTS)
    try:
        folder = place / check_name(target)
    except ValueError as error:
        raise ResultsError("STUDY", str(error)) from None
    if (folder / "study.json").is_file():
        return folder
    known = sorted(f.parent.name for f in place.glob("*/study.json"))
    hint = did_you_mean(target, known) or (f"; there are {', '.join(known)}" if known else "")
    raise ResultsError(f"{place}", f"no study {target!r} here{hint}")
