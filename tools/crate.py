"""What archives and checkers read: an RO-Crate of a folder, codecheck.yml, and .zenodo.json from CITATION.cff.

python -m tools.crate    writes .zenodo.json

The crate follows RO-Crate 1.1, https://w3id.org/ro/crate/1.1: a descriptor, the folder itself, each file with its
digest, and whom and what they name.
"""

import hashlib
import json
import mimetypes
import sys
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from urllib.parse import quote

import yaml

from lazylib.runs import write
from tools.pages import ROOT

SPECIFICATION = "https://w3id.org/ro/crate/1.1"
METADATA = "ro-crate-metadata.json"
KINDS = {".ipynb": "application/x-ipynb+json", ".md": "text/markdown", ".yml": "text/yaml"}

CODECHECK = "https://codecheck.org.uk/spec/config/1.0/"
CHECKER = "# For a codechecker: add codechecker, report and certificate, which nobody has given yet.\n"


def citation() -> dict:
    """CITATION.cff as it stands."""
    return yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def crate(folder: Path, name: str, description: str, files: Iterable[Path], *more: dict) -> None:
    """Write ro-crate-metadata.json of `folder`.

    files: those in it that are described.
    more: further entities, such as the action that made the files; the folder names them.
    """
    work, parts = citation(), [_file(path, folder) for path in sorted(files)]
    authors = [
        {"@id": f"#author-{k}", "@type": "Organization" if "name" in author else "Person", "name": _name(author)}
        for k, author in enumerate(work["authors"])
    ]
    licence = {"@id": f"https://spdx.org/licenses/{work['license']}", "@type": "CreativeWork", "name": work["license"]}
    licence["description"] = f"SPDX {work['license']}; see LICENSE and README.md of the book."
    whole = {
        "@id": "./",
        "@type": "Dataset",
        "name": name,
        "description": description,
        "datePublished": date.today().isoformat(),
        "license": _to(licence),
        "author": [_to(author) for author in authors],
        "hasPart": [_to(part) for part in parts],
        **({"mentions": [_to(entity) for entity in more]} if more else {}),
    }
    descriptor = {"@id": METADATA, "@type": "CreativeWork", "conformsTo": {"@id": SPECIFICATION}, "about": _to(whole)}
    context = [f"{SPECIFICATION}/context", {"sha256": "http://schema.org/sha256"}]
    graph = {"@context": context, "@graph": [descriptor, whole, *parts, licence, *authors, *more]}
    text = json.dumps(graph, indent=1, ensure_ascii=False) + "\n"
    write(folder / METADATA, lambda file: file.write_text(text, encoding="utf-8"))


def _file(path: Path, folder: Path) -> dict:
    return {
        "@id": quote(path.relative_to(folder).as_posix()),
        "@type": "File",
        "name": path.name,
        "encodingFormat": KINDS.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream",
        "contentSize": str(path.stat().st_size),
        "sha256": sha256(path),
    }


def _to(entity: dict) -> dict:
    return {"@id": entity["@id"]}


def _name(author: dict) -> str:
    """As Zenodo has it: family name, given names; or the name of who is no person."""
    return author.get("name") or f"{author['family-names']}, {author['given-names']}"


def codecheck(folder: Path, summary: str, when: str, files: Mapping[str, str]) -> None:
    """Write codecheck.yml of `folder`, but for what only a codechecker can give; files: path → comment."""
    work = citation()
    config = {
        "version": CODECHECK,
        "paper": {"title": work["title"], "authors": [{"name": _name(author)} for author in work["authors"]]},
        "manifest": [{"file": name, "comment": comment} for name, comment in files.items()],
        "summary": summary,
        "check_time": when,
    }
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=110)
    (folder / "codecheck.yml").write_text(f"---\n{CHECKER}{text}", encoding="utf-8")


def zenodo(work: dict) -> dict:
    """.zenodo.json from CITATION.cff."""
    cites = [{"identifier": each["url"], "relation": "cites"} for each in work["references"] if "url" in each]
    return {
        "upload_type": "software",
        "title": work["title"],
        "description": work["abstract"],
        "version": work["version"],
        "license": work["license"],
        "creators": [{"name": _name(author)} for author in work["authors"]],
        "keywords": work["keywords"],
        "related_identifiers": cites,
    }


def write_zenodo(folder: Path, own: Mapping[str, str]) -> None:
    """Write .zenodo.json of `folder`; own: what it says that the book's does not."""
    text = json.dumps({**zenodo(citation()), **own}, indent=2, ensure_ascii=False) + "\n"
    (folder / ".zenodo.json").write_text(text, encoding="utf-8")


def main() -> int:
    write_zenodo(ROOT, {})
    return 0


if __name__ == "__main__":
    sys.exit(main())
