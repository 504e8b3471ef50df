"""What the theme leaves to be mended in the built pages: names for screen readers, scripts that a page does not use."""

import re
from pathlib import Path

MENDED = (
    # The list of works: its entries have a role that lists do not allow.
    (re.compile(r'<div role="list" class="citation-list"'), '<div class="citation-list"'),
    (re.compile(r'(<div class="citation" id="[^"]*") role="doc-biblioentry"'), r"\1"),
    # The arrow that unfolds pages in the sidebar has no name.
    (
        re.compile(r'(<a class="(?:current )?reference internal" href="[^"]*">([^<]*)</a><details[^>]*>)<summary>'),
        r'\1<summary aria-label="pages below: \2">',
    ),
    # 1.5 MB that turn icons of the style sheet into pictures of the same icons.
    (re.compile(r'\s*<script defer src="[^"]*fontawesome\.js[^"]*"></script>'), ""),
)
SEARCH = re.compile(r'\s*<script src="[^"]*(?:searchtools|language_data|searchindex)\.js[^"]*"></script>')  # 0.2 MB


def mend(site: Path) -> None:
    """Mend all pages below `site`, in place."""
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        for wrong, right in MENDED:
            text = wrong.sub(right, text)
        if path.name != "search.html":
            text = SEARCH.sub("", text)
        path.write_text(text, encoding="utf-8")
    (site / "_static" / "scripts" / "fontawesome.js").unlink(missing_ok=True)
