"""Files that are whole or not there, and one digest of all that lazylib consists of."""

import contextlib
import hashlib
import os
import re
import uuid
from collections.abc import Callable
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]  # the folder lazylib


def digest(*parts: bytes) -> bytes:
    """BLAKE2b of the parts, which tells ("a", "bc") from ("ab", "c").

    Args:
        parts: byte strings.

    Returns:
        16 bytes.

    Example:
        >>> from lazylib.runs import digest
        >>> digest(b"a", b"bc") == digest(b"ab", b"c"), len(digest())
        (False, 16)
    """
    found = hashlib.blake2b(digest_size=16)
    for part in parts:
        found.update(len(part).to_bytes(8, "little") + part)
    return found.digest()


def source_digest(package: Path = PACKAGE) -> bytes:
    """Digest of a package's files as they are now, code and data of every room, by path and content.

    Args:
        package: its folder; lazylib's by default.

    Returns:
        16 bytes. A changed line in any room changes them, and with them the keys of stored cells and checkpoints.

    Example:
        >>> from lazylib.runs import source_digest
        >>> source_digest() == source_digest()
        True
    """
    parts = []
    for file in sorted(package.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            parts += [file.relative_to(package).as_posix().encode(), file.read_bytes()]
    return digest(*parts)


LOADED = source_digest()  # lazylib as it was loaded: a process may outlive an edit, with or without reloading


def write(path: str | os.PathLike, save: Callable[[Path], object]) -> None:
    """Make or replace a file whole or not at all, whatever kills us.

    Args:
        path: of the file; missing folders are made.
        save: writes the content to the path that it is given, a temporary one in the same folder, which is renamed
            after the data have reached the disk.

    Raises:
        OSError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from lazylib.runs import write
        >>> folder = Path(tempfile.mkdtemp())
        >>> write(folder / "new" / "a.txt", lambda path: path.write_text("whole"))
        >>> [file.name for file in (folder / "new").iterdir()]
        ['a.txt']
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}-{uuid.uuid4().hex}.tmp")
    try:
        save(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    if os.name == "posix":  # make the rename itself durable
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


# ---- files that know their name and content: <name>-<checksum><suffix> ----


def write_sealed(folder: Path, name: str, suffix: str, data: bytes) -> Path:
    """Write data whole or not at all; the checksum in the file's name is of its name and of its bytes."""
    path = folder / f"{name}-{digest(name.encode(), data).hex()}{suffix}"
    write(path, lambda file: file.write_bytes(data))
    return path


def read_sealed(path: Path) -> bytes | None:
    """What was written; None for a file that is damaged, bears another's name or cannot be read."""
    name, _, checksum = path.stem.rpartition("-")
    with contextlib.suppress(OSError):
        data = path.read_bytes()
        if digest(name.encode(), data).hex() == checksum:
            return data
    return None


def sealed(folder: Path, name: str, suffix: str) -> list[Path]:
    """The files that bear this name, whole or not, in order; several where a process was killed in between."""
    pattern = re.compile(f"{re.escape(name)}-[0-9a-f]{{32}}{re.escape(suffix)}")
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in found if pattern.fullmatch(path.name))


def remove(path: Path) -> None:
    """Remove a file that is of no use any more, if that is allowed."""
    with contextlib.suppress(OSError):
        path.unlink()
