"""The whole book as one PDF, printed by Chromium from the built pages; a line of the contents leads to its page.

python -m tools.pdf [--site DIR] [--into FILE]    by default _build/html and _build/lazy-training.pdf

The pages are put into one, so that links between them work; sliders show their present picture, what is folded
is open if it is text and left out if it is code, and the lab is left to the screen.
"""

import argparse
import copy
import posixpath
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from bs4 import BeautifulSoup, Tag

from tools.pages import ROOT, pages
from tools.ready import browser_path

LEFT_OUT = (
    "script, .headerlink, .toggle-hint, .take, .frames input, .ledger-filter, details.hide, .prev-next-area, "
    "figcaption .file"
)
STYLE = """
body { max-width: none; font-size: 10pt; }
#book { padding: 0; } #book > section { break-before: page; }
#book img { max-width: 100%; max-height: 24cm; break-inside: avoid; }
figure, table tr, pre, .admonition p { break-inside: avoid; }
h1, h2, h3 { break-after: avoid; } pre { white-space: pre-wrap; } .contents li { list-style: none; }
"""
PATIENCE = 300_000  # ms, for a slow machine
HEADINGS = """() => [...document.querySelectorAll("#book :is(h1, h2, h3, h4, h5, h6)")]
  .filter((heading) => heading.checkVisibility()).map((heading) => heading.innerText.replace(/\\s+/g, " ").trim())"""
STRING = rb"(?:\((?:[^()\\]|\\.)*\)|<[0-9A-F]*>)"
BOOKMARK = re.compile(rb"^(\d+) 0 obj\n<</Title %s\n(/Dest .*?)>>\nendobj" % STRING, re.M | re.S)


def together(site: Path, names: list[str]) -> str:
    """One page of the pages `names`: addresses relative to `site`, links between them within the page."""
    whole = BeautifulSoup((site / f"{names[0]}.html").read_text(encoding="utf-8"), "html.parser")
    book = whole.new_tag("main", id="book")
    contents = whole.new_tag("ul", attrs={"class": "contents"})
    for name in names:
        page = BeautifulSoup((site / f"{name}.html").read_text(encoding="utf-8"), "html.parser")
        body = page.select_one("article")
        section = own(whole, body, name, set(names))
        title = body.select_one("h1").get_text(" ", strip=True).removesuffix("#").strip()
        line = whole.new_tag("li")
        line.append(whole.new_tag("a", href=f"#{anchor(name)}", string=title))
        contents.append(line)
        book.append(section)
    first = book.select_one("h1")
    first.insert_after(contents)
    whole.body.clear()
    whole.body.append(book)
    style = whole.new_tag("style", string=STYLE)
    whole.head.append(style)
    return str(whole)


def anchor(page: str, place: str = "") -> str:
    return f"{page.replace('/', '-')}{'--' * bool(place)}{place}"


def own(whole: BeautifulSoup, body: Tag, page: str, names: set[str]) -> Tag:
    """The page's part of the book."""
    section = whole.new_tag("section", id=anchor(page))
    section.append(copy.copy(body))
    for part in section.select(LEFT_OUT):
        part.decompose()
    for part in section.select(".lab"):
        note = "(Here the pages have the lab, in which the network trains as one watches.)"
        part.replace_with(whole.new_tag("p", string=note))
    for part in section.select("details"):
        part["open"] = ""
    for part in section.select(".dropdown"):
        part["class"] = [name for name in part["class"] if name not in ("dropdown", "toggle")]
    for part in section.select("[id]"):
        part["id"] = anchor(page, part["id"])
    here = posixpath.dirname(page)
    for part in section.select("[src]"):
        if not part["src"].startswith("data:"):
            part["src"] = posixpath.normpath(posixpath.join(here, part["src"]))
            part["loading"] = "eager"
    for link in section.select("a[href]"):
        file, _, place = link["href"].partition("#")
        if "://" in file or file.startswith("mailto:"):
            continue
        target = posixpath.normpath(posixpath.join(here, file)).removesuffix(".html") if file else page
        if target in names:
            link["href"] = f"#{anchor(target, place)}"
        else:
            del link["href"]  # a file beside the pages
    return section


def make(site: Path, into: Path, names: list[str]) -> None:
    """Print the pages `names` of the book at `site` to the file `into`."""
    from playwright.sync_api import sync_playwright

    page_file = site / "whole.html"
    page_file.write_text(together(site, names), encoding="utf-8")
    try:
        with sync_playwright() as play:
            browser = play.chromium.launch(executable_path=browser_path(), args=["--no-sandbox", "--disable-gpu"])
            tab = browser.new_page()
            tab.set_default_timeout(PATIENCE)
            tab.emulate_media(media="print", color_scheme="light")
            tab.goto(page_file.as_uri(), wait_until="load")
            tab.wait_for_function("window.MathJax?.startup?.promise !== undefined")
            tab.evaluate("window.MathJax.startup.promise")
            made = tab.pdf(
                format="A4", outline=True, tagged=True, print_background=True, display_header_footer=True,
                header_template="<span></span>",
                footer_template='<div style="font-size:8px;width:100%;text-align:center" class="pageNumber"></div>',
                margin={"top": "1.5cm", "bottom": "1.8cm", "left": "1.8cm", "right": "1.8cm"},
            )  # fmt: skip
            into.write_bytes(with_bookmarks(made, tab.evaluate(HEADINGS)))
            browser.close()
    finally:
        page_file.unlink()


def with_bookmarks(pdf: bytes, titles: list[str]) -> bytes:
    """The file as Chromium makes it, whose bookmarks bear the titles, in order.

    Chromium runs the lines of a title into each other, and doubles one at the top of a page. New versions of the
    bookmarks and a table of their places follow the old file (ISO 32000-1, 7.5.6). Where Chromium has made more or
    fewer bookmarks than there are titles, the file stays as it is.
    """
    bookmarks = {int(found[1]): found[2] for found in BOOKMARK.finditer(pdf)}

    def ordered(text: bytes, kind: bytes) -> Iterator[int]:
        if found := re.search(rb"/%s (\d+) 0 R" % kind, text):
            number = int(found[1])
            yield number
            yield from ordered(bookmarks[number], b"First")
            yield from ordered(bookmarks[number], b"Next")

    root = re.search(rb"<</Type /Outlines\n.*?>>", pdf, re.S)
    numbers = list(ordered(root[0], b"First")) if root else []
    if len(numbers) != len(titles):
        return pdf
    *_, (trailer, before) = re.findall(rb"trailer\n<<(.*?)>>\nstartxref\n(\d+)", pdf, re.S)
    whole, places = bytearray(pdf), {}
    for number, title in zip(numbers, titles, strict=True):
        places[number] = len(whole)
        text = title.encode("utf-16-be").hex().upper().encode()
        whole += b"%d 0 obj\n<</Title <FEFF%s>\n%s>>\nendobj\n" % (number, text, bookmarks[number])
    table = b"xref\n0 1\n0000000000 65535 f \n"
    table += b"".join(b"%d 1\n%010d 00000 n \n" % item for item in sorted(places.items()))
    end = b"trailer\n<<%s\n/Prev %s>>\nstartxref\n%d\n%%%%EOF\n" % (trailer, before, len(whole))
    return bytes(whole + table + end)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--site", type=Path, default=ROOT / "_build" / "html", help="folder of the built pages")
    parser.add_argument("--into", type=Path, default=ROOT / "_build" / "lazy-training.pdf", help="the file to write")
    given = parser.parse_args()
    site, into = given.site.resolve(), given.into.resolve()
    if browser_path() is None or not (site / "index.html").exists():
        lacks = "the pages: `make book` first" if browser_path() else "a browser; Debian's package: chromium"
        print(f"A PDF needs {lacks}.", file=sys.stderr)
        return 1
    begun = time.monotonic()
    make(site, into, pages())
    print(f"The book: {into.as_uri()}, {into.stat().st_size / 1e6:.1f} MB in {time.monotonic() - begun:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
