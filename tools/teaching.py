"""Questions a reader can check offline, and what a teacher needs: both from chapters/questions.toml.

A page gets the section "Check yourself" before its exercises; the answers are folded, and a choice is answered by
static/book.js, in the page. The page for teachers includes a table of the chapters and all questions with answers.
"""

from __future__ import annotations

import html
import re
import tomllib
from hashlib import blake2b
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

BEFORE = "## Exercises"
STARTS = re.compile(f"^{BEFORE}", re.MULTILINE)


def asked(root: Path) -> dict[str, dict[str, Any]]:
    """What questions.toml says of each chapter: `needs`, `after`, `pitfall` and `questions`."""
    path = root / "chapters" / "questions.toml"
    return tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def options(question: dict[str, Any]) -> list[str]:
    """The right answer among the wrong ones, in an order that tells nothing and is always the same."""
    return sorted(
        [question["right"], *question["wrong"]], key=lambda o: blake2b((question["ask"] + o).encode()).digest()
    )


def with_questions(notebook: NotebookNode, questions: list[dict[str, Any]]) -> NotebookNode:
    """`notebook` with the questions before its exercises, or at its end if it has none; in place."""
    asked = "\n\n".join(_form(number, question) for number, question in enumerate(questions, 1))
    text = f"## Check yourself\n\nThree questions; nothing that you choose leaves this page.\n\n{asked}"
    cells = [nbformat.v4.new_markdown_cell(text, id="check-yourself")]
    texts = ((i, cell) for i, cell in enumerate(notebook.cells) if cell.cell_type == "markdown")
    at, exercises = next(((i, cell) for i, cell in texts if STARTS.search(cell.source)), (len(notebook.cells), None))
    if exercises and not exercises.source.startswith(BEFORE):  # they begin within a cell, which is cut there
        before, after = STARTS.split(exercises.source, maxsplit=1)
        cells.insert(0, nbformat.v4.new_markdown_cell(before, id="before-check-yourself"))
        exercises.source = BEFORE + after
    notebook.cells[at:at] = cells
    return notebook


def _form(number: int, question: dict[str, Any]) -> str:
    """One question as HTML, on one line, so that Markdown takes it as it is."""
    given = "".join(
        f'<label><input type="radio" name="ask-{number}" data-right="{int(option == question["right"])}"> '
        f"<span>{html.escape(option)}</span></label>"
        for option in options(question)
    )
    answer = f"<strong>{html.escape(question['right'])}</strong> {html.escape(question['why'])}"
    return (
        f'<fieldset class="ask"><legend>{number}. {html.escape(question["ask"])}</legend>{given}<output></output>'
        f"<details><summary>Answer</summary><p>{answer}</p></details></fieldset>"
    )


def overview(root: Path, titles: dict[str, tuple[str, str]]) -> str:
    """Of each chapter in Markdown: what it presupposes, what one can do after it, its pitfall, its questions.

    titles: chapter → its title and the line on how long it takes.
    """
    parts = []
    for stem, chapter in asked(root).items():
        title, time = titles[stem]
        lines = [f"### {{doc}}`{title} <chapters/{stem}>`", f"{time}", f"- **Presupposes**: {chapter['needs']}"]
        lines += [
            f"- **After it a student can** {chapter['after']}",
            f"- **Where it goes wrong**: {chapter['pitfall']}",
        ]
        answers = [f"{q['ask']} **{q['right']}** {q['why']}" for q in chapter["questions"]]
        folded = "\n".join(f"{number}. {text}" for number, text in enumerate(answers, 1))
        box = f"```{{admonition}} Its questions, with answers\n:class: dropdown\n\n{folded}\n```"
        parts.append("\n\n".join([*lines[:2], "\n".join(lines[2:]), box]))
    return "\n\n".join(parts) + "\n"
