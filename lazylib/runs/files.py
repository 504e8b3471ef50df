"""Files that are whole or not there, and one digest of all that lazylib consists of."""

import hashlib
import os
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
