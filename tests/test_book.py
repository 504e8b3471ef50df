"""The book builds from its executed notebooks without a warning, and a browser shows its pages."""

import functools
import http.server
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import jupyter_book
import pytest
import yaml

from tests.made_notebooks import figure, text, write
from tools.check import problems
from tools.pages import ROOT, notebooks, pages

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def build(executed: Path, out: Path, root: Path = ROOT) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "tools.build", "--notebooks", executed, "--out", out, "--root", root]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The folder of the built pages."""
    out = tmp_path_factory.mktemp("book")
    done = build(ROOT, out)
    assert done.returncode == 0, done.stderr
    return out / "html"


# --- the sources ---


@pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.stem)
def test_a_committed_notebook_is_fit_for_a_page(path):
    assert problems(path) == []


def test_every_key_of_the_configuration_is_known():
    """Jupyter Book ignores one that it does not know, such as a misspelt one."""
    default = Path(jupyter_book.__file__).parent / "default_config.yml"
    known = set(yaml.safe_load(default.read_text(encoding="utf-8"))) | {"bibtex_bibfiles"}
    given = set(yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8")))
    assert given <= known, given - known


# --- the build ---


def test_every_page_is_built(site):
    for page in pages():
        assert (site / f"{page}.html").exists(), page


def article(site: Path, page: str) -> str:
    """The page's own part of its HTML, without navigation."""
    return (
        (site / f"{page}.html").read_text(encoding="utf-8").split("<article", 1)[1].split("</article>", 1)[0]
    )


def test_no_dollar_is_left_beside_mathematics(site):
    """$$ in the middle of a line is read as $ and mathematics between two more."""
    for page in pages():
        assert not re.search(r'\$<span class="math|class="math[^<]*</span>\$', article(site, page)), page


def test_no_picture_lacks_its_text(site):
    for page in pages():
        body = article(site, page)
        for picture in re.findall(r"<img\b[^>]*>", body):
            alt = re.search(r'alt="([^"]*)"', picture)
            # Without a text the builder puts the file's name there.
            assert alt and alt[1].strip() and not re.search(r"\.(png|svg|jpe?g)$", alt[1]), (
                f"{page}: {picture}"
            )


@pytest.fixture
def small_book(tmp_path) -> Path:
    """The project's configuration with one page beside the introduction."""
    for name in ("_config.yml", "references.bib", "favicon.svg"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: index\nchapters: [{file: page}]\n")
    (tmp_path / "index.md").write_text("# Book\n\n{doc}`page`\n")
    write(tmp_path / "page.ipynb", text("# A page\n\nMathematics $x$."), figure())
    return tmp_path


def test_a_sound_book_builds(small_book, tmp_path):
    done = build(small_book, tmp_path / "out", small_book)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"The book: {(tmp_path / 'out/html/index.html').as_uri()}"
    assert 'alt="a line that rises"' in (tmp_path / "out/html/page.html").read_text(encoding="utf-8")


BROKEN = {  # word in the warning → what is wrong
    "nowhere": "See {doc}`nowhere`.",
    "nobody": "See {cite}`nobody`.",
    "gone.png": "![a picture](gone.png)",
    "missing": "A number from an output: {glue:text}`missing`.",
    "nonsense": "```{nonsense}\n```",
}


def test_every_warning_fails_the_build_and_says_where(small_book, tmp_path):
    write(small_book / "page.ipynb", text("# A page"), *map(text, BROKEN.values()))
    done = build(small_book, tmp_path / "out", small_book)
    assert done.returncode != 0 and not (tmp_path / "out/html").exists()
    for word in BROKEN:
        assert re.search(rf"page\.ipynb.*WARNING.*{word}", done.stderr), f"{word}: {done.stderr}"


def test_a_page_with_a_fault_fails_before_the_build(small_book, tmp_path):
    write(small_book / "page.ipynb", text("# A page"), figure(alt=None))
    done = build(small_book, tmp_path / "out", small_book)
    assert done.returncode != 0 and "page.ipynb, cell 2: its figure has no alternative text" in done.stderr


def test_a_page_that_was_not_executed_fails(small_book, tmp_path):
    done = build(tmp_path / "elsewhere", tmp_path / "out", small_book)
    assert done.returncode != 0 and "page.ipynb has not been executed" in done.stderr


# --- in a browser ---


@pytest.fixture(scope="module")
def address(site):
    """The built pages behind a plain static server on this machine."""

    class Silent(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *words):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Silent, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no chromium here; on Debian: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api")
    quiet = [
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
    ]
    with playwright.sync_playwright() as play:
        chromium = play.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", *quiet]
        )
        yield chromium
        chromium.close()


@pytest.mark.parametrize("page", pages())
def test_a_page_shows_in_a_browser(browser, address, page):
    """Title, pictures, links to other pages; what comes from foreign addresses (mathematics) is left out."""
    tab = browser.new_page()
    missing = []
    tab.route(lambda url: not url.startswith(address), lambda route: route.abort())
    tab.on("response", lambda answer: missing.append(answer.url) if answer.status >= 400 else None)
    tab.goto(f"{address}/{page}.html", wait_until="load")
    assert tab.locator("article h1").count() == 1
    pictures = tab.locator("article img").evaluate_all(
        "all => all.map(i => [i.src, i.complete && i.naturalWidth > 0])"
    )
    assert all(loaded for _, loaded in pictures), pictures
    links = set(tab.locator("a").evaluate_all("all => all.map(a => a.href.split('#')[0])"))
    for link in sorted(link for link in links if link.startswith(address)):
        answer = tab.request.get(link)
        assert answer.ok, f"{page} links to {link}, which does not exist"
    assert not missing
    tab.close()
