"""The book builds from its executed notebooks without a warning, and a browser shows its pages."""

import functools
import http.server
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import zlib
from html import unescape
from pathlib import Path
from urllib.parse import unquote

import jupyter_book
import nbformat
import pytest
import yaml
from nbformat.v4 import new_output

from lazylib.book import claims, ledger
from tests.made_notebooks import code, figure, text, write
from tests.test_verify import is_a_crate
from tools import build as build_tool
from tools import download, frames, vendor
from tools.check import problems
from tools.pages import ROOT, notebooks, pages
from tools.ready import browser_path


def build(executed: Path, out: Path, root: Path = ROOT) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "tools.build", "--notebooks", executed, "--out", out, "--root", root]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The folder of the built pages."""
    if already := os.environ.get("LAZYLIB_SITE"):  # while one writes these tests
        return Path(already)
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


@pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.stem)
def test_the_notebook_for_download_is_plain_markdown(site, path):
    """In Jupyter and Colab a role or a directive would stand raw; captions are cells there."""
    offered = site / "_sources" / path.relative_to(ROOT)
    assert f'href="{"../" * (len(path.relative_to(ROOT).parts) - 1)}_sources/{path.relative_to(ROOT)}"' in (
        site / path.relative_to(ROOT).with_suffix(".html")
    ).read_text(encoding="utf-8")
    book = nbformat.read(offered, as_version=4)
    nbformat.validate(book)
    texts = [cell.source for cell in book.cells if cell.cell_type == "markdown"]
    for cell in book.cells:
        texts += [
            output.data["text/markdown"]
            for output in cell.get("outputs", [])
            if "text/markdown" in output.get("data", {})
        ]
    assert not [text for text in texts if download.LEFT.search(text)]
    captions = sum(
        "caption" in cell.metadata.get("mystnb", {}).get("figure", {}) for cell in nbformat.read(path, 4).cells
    )
    assert sum(text.startswith("*Figure ") for text in texts) == captions


def test_beside_the_pages_lies_what_is_in_their_data_with_digests(site):
    described = is_a_crate(site)
    assert {"_data/ledger.json", "_sources/chapters/ledger.ipynb"} <= described.keys()
    assert {f"_data/{path.name}" for path in site.glob("_data/*")} <= described.keys()
    assert 'href="../ro-crate-metadata.json"' in article(site, "chapters/ledger")


def article(site: Path, page: str) -> str:
    """The page's own part of its HTML, without navigation."""
    return (site / f"{page}.html").read_text(encoding="utf-8").split("<article", 1)[1].split("</article>", 1)[0]


def test_no_dollar_is_left_beside_mathematics(site):
    """$$ in the middle of a line is read as $ and mathematics between two more."""
    for page in pages():
        assert not re.search(r'\$<span class="math|class="math[^<]*</span>\$', article(site, page)), page


def test_no_page_names_a_folder_of_this_machine(site):
    for page in pages():
        assert str(ROOT) not in (site / f"{page}.html").read_text(encoding="utf-8"), page


def test_no_picture_lacks_its_text(site):
    for page in pages():
        body = article(site, page)
        for picture in re.findall(r"<img\b[^>]*>", body):
            alt = re.search(r'alt="([^"]*)"', picture)
            # Without a text the builder puts the file's name there.
            assert alt and alt[1].strip() and not re.search(r"\.(png|svg|jpe?g)$", alt[1]), f"{page}: {picture}"


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
    """And under a figure whose points are known there is a link to them."""
    drawn, plain = (
        figure(mystnb={"figure": {"name": name, "caption": "A line."}, "image": {"alt": "a line that rises"}}, alt=None)
        for name in ("fig-a", "fig-b")
    )
    drawn.outputs[0].data["text/csv"] = "x,y\n1,2\n"
    write(small_book / "page.ipynb", text("# A page\n\nMathematics $x$."), drawn, plain)
    done = build(small_book, tmp_path / "out", small_book)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"The book: {(tmp_path / 'out/html/index.html').as_uri()}"
    page = (tmp_path / "out/html/page.html").read_text(encoding="utf-8")
    assert 'alt="a line that rises"' in page
    assert re.findall(r'href="(_data/[^"]*)" download>CSV<', page) == ["_data/fig-a.csv"]
    assert (tmp_path / "out/html/_data/fig-a.csv").read_text() == "x,y\n1,2\n"
    assert {"index.html", "_sources/page.ipynb"} <= is_a_crate(tmp_path / "out/html").keys()
    has_its_licences(tmp_path / "out/html")


def has_its_licences(site):
    """Beside every font and script that is not the book's own, or above it, lies a licence; fonts have their own."""
    bundled = {path for path in site.rglob("*") if path.suffix in (".js", ".woff", ".woff2", ".ttf")}
    folders = {path.parent for path in bundled} - {site, site / "_frames"}  # these two are the book's
    assert {site / "vendor/mathjax", site / "_static", site / "_static/vendor/fontawesome/webfonts"} <= folders
    for folder in folders:
        above = [each for each in (folder, *folder.parents) if site in each.parents]
        found = [path for each in above for path in each.glob("LICEN[CS]E*")]
        assert found, folder
        if "fontawesome" in folder.parts:
            assert "SIL OPEN FONT LICENSE" in found[0].read_text() and "CC BY 4.0" in found[0].read_text()
    # The text is that of the version that the theme has.
    year = re.search(r"Copyright \(c\) (\d+) Fonticons", (build_tool.STATIC / "fontawesome-LICENSE.txt").read_text())[1]
    styles = (site / "_static/styles/pydata-sphinx-theme.css").read_text()
    assert set(re.findall(r"Copyright (\d+) Fonticons", styles)) == {year}
    texts = (site / "_static/LICENSES.txt").read_text(encoding="utf-8")
    for name in build_tool.PACKAGES.split():
        assert re.search(rf"^{name} \d", texts, re.MULTILINE), name


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


# --- the book, whatever happens ---

FAILS = """\
from lazylib.book import ledger
ledger.untested("T1", "no run")
raise ValueError("tau is `bad`: {doc}`nowhere` <b>$x$</b> {{ y }} :::")"""
DIES = "import os\nos._exit(137)"
STOPS_ONCE = """\
import joblib, pathlib, time
first = not pathlib.Path("0.started").exists()
def cell(number):
    pathlib.Path(f"{number}.started").touch()
    time.sleep(300 * first)
joblib.Parallel(n_jobs=2)(joblib.delayed(cell)(number) for number in range(2))"""  # as sweeps do


@pytest.fixture
def whole_book(small_book) -> Path:
    """The small book with chapters, a ledger and an introduction; returns its folder."""
    names = ("ledger", "02_trajectories", "b", "c", "d")
    files = "".join(f"  - file: chapters/{name}\n" for name in names)
    (small_book / "_toc.yml").write_text(f"format: jb-book\nroot: index\nchapters:\n{files}")
    (small_book / "index.md").write_text("# Book\n")
    for name in names:
        chapter(small_book, name, "print(40 + 2)")
    return small_book


def chapter(book: Path, name: str, source: str) -> None:
    committed = new_output("stream", name="stdout", text="an old output")
    write(book / f"chapters/{name}.ipynb", text(f"# Chapter {name}\n\nIts claim."), code(source, committed))


def make_book(book: Path, *names: str) -> subprocess.Popen:
    """As `make book` does; Ctrl-C reaches it also where the tests themselves run in the background."""
    command = [sys.executable, "-m", "tools.book", "--root", book, "--out", book / "out", *names]
    return subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "LAZYLIB_OFFLINE": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip


def test_a_chapter_that_fails_does_not_cost_the_book(whole_book):
    """One chapter fails, the kernel of another dies, a third is not asked for; the next time all is well."""
    chapter(whole_book, "02_trajectories", FAILS)
    chapter(whole_book, "b", DIES)
    html = whole_book / "out/html"
    made = make_book(whole_book, "02_trajectories", "b", "c")
    said, complaints = made.communicate(timeout=300)
    assert made.returncode == 1, complaints
    *_, last = said.splitlines()
    assert last.startswith(f"The book: {(html / 'index.html').as_uri()}; 2 executed, 0 unchanged, 2 failed: ")
    assert "02_trajectories (ValueError: tau is `bad`" in last and "b (Kernel died, " in last
    reasons = {
        "02_trajectories": "ValueError: tau is `bad`: {doc}`nowhere` <b>$x$</b> {{ y }} :::",
        "b": "Kernel died, which happens where memory runs out",
        "d": "not among the chapters that were asked for",
    }
    for name, reason in reasons.items():
        page = words(article(html, f"chapters/{name}"))
        assert f"the outputs are those that were committed. The reason: {reason}" in page
        assert page.index("Not executed") < page.index("Its claim.") < page.index("an old output")
        assert f"Chapter {name}: {reason}" in words(article(html, "chapters/ledger"))
    sound = words(article(html, "chapters/c"))
    assert "Not executed" not in sound and "42" in sound and "an old output" not in sound
    assert "Chapter c:" not in words(article(html, "chapters/ledger"))
    assert not list(whole_book.rglob("T1.json")), "a claim of the failed chapter is left in the ledger"

    for name in ("02_trajectories", "b"):
        chapter(whole_book, name, "print(40 + 2)")
    made = make_book(whole_book)
    said, complaints = made.communicate(timeout=300)
    assert made.returncode == 0, complaints
    assert said.splitlines()[-1].endswith("/index.html; 3 executed, 2 unchanged, 0 failed")
    for page in pages(whole_book):
        assert "Not executed" not in article(html, page), page


def words(page: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]*>", "", page)).split())


def test_an_interrupted_book_goes_on_where_it_was(whole_book):
    chapter(whole_book, "b", STOPS_ONCE)
    made = make_book(whole_book)
    deadline = time.monotonic() + 120
    # Ctrl-C while Python itself starts is reported by Python, in whatever process.
    while len(list(whole_book.glob("chapters/*.started"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    made.send_signal(signal.SIGINT)
    _, complaints = made.communicate(timeout=60)
    assert made.returncode == 130 and "Traceback" not in complaints, complaints
    assert complaints.splitlines()[-1] == "Interrupted: `make book` goes on where it was."
    made = make_book(whole_book)
    said, complaints = made.communicate(timeout=300)
    assert made.returncode == 0, complaints
    assert "02_trajectories.ipynb: unchanged" in said
    assert said.splitlines()[-1].endswith("; 4 executed, 1 unchanged, 0 failed")


def test_a_book_that_cannot_be_built_says_so_last(whole_book):
    chapter(whole_book, "c", "raise ValueError('no')")
    (whole_book / "index.md").write_text("# Book\n\n{doc}`nowhere`\n")
    made = make_book(whole_book, "c")
    said, complaints = made.communicate(timeout=300)
    assert made.returncode != 0 and "nowhere" in complaints
    assert said.splitlines()[-1] == (
        "The book was not built, see above; 1 executed, 0 unchanged, 1 failed: c (ValueError: no)"
    )


def test_a_damaged_record_stops_the_build_with_a_sentence(whole_book, tmp_path, monkeypatch):
    def damaged():
        raise ValueError("the record K1.json lacks entries.")

    monkeypatch.setattr(build_tool, "table", damaged)
    assert build_tool.stage(whole_book, tmp_path / "staged", whole_book) == ["the record K1.json lacks entries."]


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
    if browser_path() is None:
        pytest.skip("no chromium here; on Debian: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api")
    quiet = [
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
    ]
    with playwright.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=browser_path(), args=["--no-sandbox", "--disable-gpu", *quiet])
        yield chromium
        chromium.close()


PATIENCE = 120_000  # ms; a machine that does much else is slow


class Tab:
    """A browser's tab that notes what goes wrong: console errors, missing files, requests to foreign addresses."""

    def __init__(self, browser, address, page, width=1280):
        self.faults, self.address = [], address
        self.tab = browser.new_page(viewport={"width": width, "height": 900})
        self.tab.set_default_timeout(PATIENCE)
        self.tab.route(lambda url: not url.startswith(address), self._foreign)
        self.tab.on("response", lambda r: self.faults.append(f"missing {r.url}") if r.status >= 400 else None)
        self.tab.on("console", lambda m: self.faults.append(f"console: {m.text}") if m.type == "error" else None)
        self.tab.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        self.tab.goto(f"{address}/{page}.html", wait_until="load")

    def _foreign(self, route):
        if not route.request.url.startswith(("data:", "blob:")):
            self.faults.append(f"foreign address {route.request.url}")
        route.abort()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.tab.close()

    def typeset(self):
        self.tab.wait_for_function("() => window.MathJax?.startup?.promise !== undefined")
        self.tab.evaluate("() => window.MathJax.startup.promise")


_linked = dict[str, tuple[bool, str]]()  # address of a file → whether it is there, and its text


def there(tab, file: str) -> tuple[bool, str]:
    """Most pages link to the same files: each is loaded once."""
    if file not in _linked:
        answer = tab.request.get(file)
        _linked[file] = answer.ok, answer.text() if "text/html" in answer.headers.get("content-type", "") else ""
    return _linked[file]


@pytest.fixture
def visit(browser, address):
    return functools.partial(Tab, browser, address)


@pytest.fixture(scope="module", params=pages())
def opened(request, browser, address):
    """A page in a tab, with its mathematics typeset, which takes most of the time: for all tests of the page."""
    with Tab(browser, address, request.param) as seen:
        if seen.tab.locator("article .math").count():
            seen.typeset()
        yield seen


def test_a_page_shows_in_a_browser(opened):
    """Title, pictures, mathematics, links; no error in the console, nothing from a foreign address; at most 1.5 MB."""
    tab = opened.tab
    assert tab.locator("article h1").count() == 1
    pictures = tab.locator("article img").evaluate_all(
        "all => all.map(i => [i.src.slice(0, 200), i.complete && i.naturalWidth > 0, i.alt])"
    )
    assert all(loaded and alt for _, loaded, alt in pictures), pictures
    left = tab.locator("article .math").evaluate_all(
        "all => all.filter(m => !m.querySelector('mjx-container') || m.querySelector('mjx-merror'))"
        ".map(m => m.textContent)"
    )
    assert not left, f"not typeset: {left}"
    ids = set(tab.locator("[id]").evaluate_all("all => all.map(e => e.id)"))
    here = tab.url.split("#")[0]
    for link in sorted(set(tab.locator("a:not(.lab a)").evaluate_all("all => all.map(a => a.href)"))):
        file, _, anchor = link.partition("#")
        if file == here:
            assert not anchor or unquote(anchor) in ids, f"a link to the page's own #{anchor}, which does not exist"
        elif link.startswith(opened.address):
            found, text = there(tab, file)
            assert found, f"a link to {file}, which does not exist"
            assert not anchor or f'id="{unquote(anchor)}"' in text, f"a link to {link}, where there is no such place"
    assert not opened.faults, opened.faults
    assert weight(opened) <= 1.5, f"it weighs {weight(opened):.2f} MB"


def test_a_page_fits_a_phone(opened):
    opened.tab.set_viewport_size({"width": 390, "height": 900})
    wide = opened.tab.evaluate("() => document.scrollingElement.scrollWidth")
    assert wide <= 390, f"it is {wide} px wide"


def has_slider(path: Path) -> bool:
    return '"SelectionSliderModel"' in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", [path for path in notebooks() if has_slider(path)], ids=lambda path: path.stem)
def test_every_slider_changes_its_picture_by_keyboard(visit, path):
    with visit(str(path.relative_to(ROOT).with_suffix(""))) as seen:
        shown, sliders = seen.tab.locator(".frame img:visible"), seen.tab.locator(".frames input")
        assert sliders.count() > 0
        for number in range(sliders.count()):
            before, slider = shown.evaluate_all("all => all.map(i => i.src)"), sliders.nth(number)
            said = slider.get_attribute("aria-valuetext")
            at_end = slider.input_value() == slider.get_attribute("max")
            slider.press("ArrowLeft" if at_end else "ArrowRight")
            seen.tab.wait_for_function(
                "before => JSON.stringify([...document.querySelectorAll('.frame img')].map(i => i.src)) !== before",
                arg=json.dumps(before, separators=(",", ":")),
            )
            assert shown.count() == len(before) and slider.get_attribute("aria-valuetext") != said
        assert seen.tab.locator("article .jupyter-widgets").count() == 0
        assert not seen.faults, seen.faults


def test_a_question_is_answered_in_its_page(visit):
    with visit("chapters/03_tau_plateau") as seen:
        first = seen.tab.locator(".ask").first
        assert seen.tab.locator(".ask").count() == 3 and first.locator("input").count() == 3
        for right, said in (("0", "Not this one."), ("1", "Right.")):
            first.locator(f'input[data-right="{right}"]').first.check()
            assert first.locator("output").inner_text() == said
            assert (first.locator("details").get_attribute("open") is None) == (right == "0")
        assert not seen.faults, seen.faults


@pytest.mark.parametrize("path", [path for path in notebooks() if has_slider(path)], ids=lambda path: path.stem)
def test_the_pictures_of_a_slider_are_those_of_the_notebook(site, path):
    """Every picture, in its place; the page itself holds one, and the notebook for download all of its widgets."""
    notebook = nbformat.read(path, 4)
    models = notebook.metadata["widgets"][frames.STATE]["state"]
    views = [
        o.data[frames.VIEW]["model_id"]
        for c in notebook.cells
        for o in c.get("outputs", [])
        if frames.VIEW in o.get("data", {})
    ]
    page = (site / path.relative_to(ROOT).with_suffix(".html")).read_text(encoding="utf-8")
    assert page.count("data:image/png") == len(views) == page.count('class="frames"')
    for number, view in enumerate(views):
        _, pictures = frames.parts(models, view)
        name = f"{path.stem}-{number}"
        script = (site / "_frames" / f"{name}.js").read_text(encoding="utf-8")
        given = json.loads(f"[{script.removeprefix('bookFrames(').removesuffix(');' + chr(10))}]")
        assert given == [name, pictures]
        assert str(pictures).count("<img") == sum(
            "<img" in m["state"].get("value", "") for m in models.values() if m["model_name"] == "HTMLModel"
        )
    offered = nbformat.read(site / "_sources" / path.relative_to(ROOT), 4)
    assert offered.metadata["widgets"] == notebook.metadata["widgets"]


def weight(seen) -> float:
    """Megabytes that a server which compresses has sent for a page; none of it pictures behind a slider."""
    names = seen.tab.evaluate("performance.getEntriesByType('resource').map(e => e.name)")
    files = {name.partition("?")[0] for name in [seen.tab.url, *names] if name.startswith(seen.address)}
    assert not any("/_frames/" in file for file in files)
    return sum(len(zlib.compress(seen.tab.request.get(file).body())) for file in files) / 1e6


# --- for every reader ---

FINDINGS = """async (rules) => (await axe.run({exclude: [["mjx-container"]]}, {resultTypes: ["violations"], ...rules}))
    .violations.filter(v => ["serious", "critical"].includes(v.impact))
    .map(v => [v.id, ...v.nodes.slice(0, 3).map(n => n.target.join(" ") + ": " + n.failureSummary)])"""


@pytest.fixture(scope="module")
def axe():
    """The script of axe-core, which finds what shuts readers out."""
    try:
        folder = vendor.vendor(build_tool.VENDOR, vendor.AXE)["axe"]
    except vendor.NotFetched as error:
        pytest.skip(str(error))
    return (folder / "axe.min.js").read_text(encoding="utf-8")


def findings(tab, axe):
    """Serious findings in the light theme, and those about colours in the dark one.

    Of code and of signatures, thousands of elements that are alike, the first few stand for all.
    """
    alike = [".highlight", "dl.py", ".ledger tbody", "table.dataframe tr"]
    tab.evaluate(
        "kinds => kinds.forEach(kind => [...document.querySelectorAll(kind)].slice(4).forEach(part => part.remove()))",
        alike,
    )
    tab.evaluate(axe)
    found = tab.evaluate(FINDINGS, {})
    tab.add_style_tag(content="* { transition: none !important }")
    tab.evaluate("document.documentElement.dataset.theme = 'dark'")
    return found + tab.evaluate(FINDINGS, {"runOnly": ["color-contrast"]})


@pytest.mark.parametrize("page", [*pages(), "search"])
def test_a_page_shuts_no_reader_out(browser, address, axe, page):
    tab = browser.new_page(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    tab.set_default_timeout(PATIENCE)
    tab.route("**/vendor/mathjax/**", lambda route: route.abort())  # thousands of elements that are alike
    tab.goto(f"{address}/{page}.html", wait_until="load")
    found = findings(tab, axe)
    tab.close()
    assert not found, found


def test_what_shuts_a_reader_out_is_found(browser, axe):
    """A negative control: a control without a name, and grey on dark grey in the dark theme alone."""
    tab = browser.new_page()
    tab.set_content(
        "<html lang=en><title>x</title><style>[data-theme=dark] p {background: #333; color: #555}</style>"
        "<main><h1>x</h1><p>words</p><input type=range></main>"
    )
    assert [rule for rule, *_ in findings(tab, axe)] == ["label", "color-contrast"]
    tab.close()


def test_the_ledger_is_filtered_by_work_and_verdict(visit):
    with visit("chapters/ledger") as seen:
        tab, shown = seen.tab, seen.tab.locator(".ledger tbody:visible")
        everything = shown.count()
        assert everything == len(claims.claims())
        tab.select_option(".ledger select[name=work]", "BG")
        works = shown.evaluate_all("all => all.map(c => c.dataset.work)")
        assert 0 < len(works) < everything and set(works) == {"BG"}
        tab.select_option(".ledger select[name=verdict]", "holds")
        assert 0 < shown.count() < len(works)
        assert set(shown.evaluate_all("all => all.map(c => c.dataset.verdict)")) == {"holds"}
        assert tab.locator(".ledger output").inner_text() == f"{shown.count()} of {everything} claims"
        tables = tab.locator(".ledger table:visible").count()
        assert tables < tab.locator(".ledger table").count()
        assert not seen.faults, seen.faults


def test_the_ledger_is_put_in_another_order_and_back(visit):
    with visit("chapters/ledger") as seen:
        tab = seen.tab

        def given(name):
            return [claim.get_attribute(f"data-{name}") for claim in tab.locator(".ledger tbody").all()]

        as_in_book, dates = given("verdict"), given("since")
        tab.select_option(".ledger select[name=order]", "verdict")
        ranked = given("verdict")
        assert ranked == sorted(ranked, key=list(ledger.SYMBOLS).index) and ranked != as_in_book
        assert tab.locator(".ledger table:visible").count() == 1
        tab.select_option(".ledger select[name=order]", "since")
        assert given("since") == sorted(dates, reverse=True)
        tab.select_option(".ledger select[name=order]", "")
        assert given("verdict") == as_in_book and given("since") == dates
        assert tab.locator(".ledger table:visible").count() == tab.locator(".ledger table").count() > 1


def test_the_ledger_takes_the_width_of_a_screen_and_a_phone_shows_no_empty_runs(visit):
    with visit("chapters/ledger", width=1440) as seen:
        box = "() => document.querySelector('.ledger table').getBoundingClientRect().width"
        assert seen.tab.evaluate(box) > 1000
        seen.tab.set_viewport_size({"width": 390, "height": 800})
        assert seen.tab.evaluate(box) <= 390
        assert seen.tab.locator(".ledger td:visible").count() and not seen.tab.locator(".ledger-none:visible").count()


def test_a_claim_in_the_ledger_leads_to_its_cell(visit):
    with visit("chapters/ledger") as seen:
        seen.tab.locator("#claim-K2 a").first.click()
        seen.tab.wait_for_url("**/01_kappa_criterion.html#claim-K2")
        below = seen.tab.locator("#claim-K2").evaluate(
            "a => (a.closest('.cell, p, section > *') ?? a).getBoundingClientRect().top"
        )
        assert 0 <= below < 900, "the cell is not in view"


def test_the_search_finds_a_chapter_without_a_network(visit):
    with visit("search") as seen:
        seen.tab.goto(f"{seen.address}/search.html?q=plateau")
        found = seen.tab.locator("#search-results a[href*='03_tau_plateau']").first
        found.wait_for(timeout=20_000)
        assert not seen.faults, seen.faults


def test_a_page_that_asks_a_foreign_address_is_noticed(browser, tmp_path):
    """A negative control of the tests above."""
    (tmp_path / "page.html").write_text('<h1>x</h1><script src="http://example.invalid/a.js"></script>')
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with Tab(browser, f"http://127.0.0.1:{server.server_port}", "page") as seen:
        assert any("foreign address http://example.invalid" in fault for fault in seen.faults)
    server.shutdown()


def test_a_folder_that_others_made_is_not_built_into(tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "thesis.tex").write_text("mine")
    done = build(tmp_path / "none", tmp_path)
    assert done.returncode == 2 and "--out must be a folder of earlier builds, or have no source" in done.stderr
    assert (tmp_path / "source" / "thesis.tex").read_text() == "mine"
