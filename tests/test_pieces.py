"""A chapter in pieces: it goes on after a pause, and stops at an error."""

import sys

import pytest

from tests.made_notebooks import code, text, write
from tools import pieces

PAUSES = """\
import os, pathlib
from lazylib.runs import Paused
file = pathlib.Path(os.environ["PIECES_DONE"])
file.write_text(file.read_text() + os.environ["LAZYLIB_MINUTES"] + preset + ";")
if file.read_text().count(";") < 3:
    raise Paused("paused after epoch 1: run again to go on")
"""


@pytest.fixture
def chapter(tmp_path, monkeypatch):
    """Runs the tool on a chapter that pauses twice; returns (exit status, what the pieces noted)."""
    note = tmp_path / "done.txt"
    note.write_text("")
    monkeypatch.setenv("PIECES_DONE", str(note))
    monkeypatch.setenv("LAZYLIB_MINUTES", "")

    def run(source, *options):
        path = write(
            tmp_path / "chapters/a.ipynb",
            text("# A"),
            code('preset: str = "laptop"', tags=("parameters",)),
            code(source),
        )
        monkeypatch.setattr(pieces, "ROOT", tmp_path)
        monkeypatch.setattr(pieces, "notebooks", lambda: [path])
        monkeypatch.setattr(sys, "argv", ["pieces", "a", "--into", str(tmp_path / "out"), *options])
        return pieces.main(), note.read_text()

    return run


def test_it_goes_on_until_it_is_done(chapter, tmp_path, capsys):
    assert chapter(PAUSES, "--minutes", "2") == (0, "2.0paper;" * 3)
    assert (tmp_path / "out/chapters/a.ipynb").exists()
    assert capsys.readouterr().out.count("run again to go on") == 2


def test_it_stops_after_the_pieces_asked_for(chapter, tmp_path):
    assert chapter(PAUSES, "--pieces", "1", "--preset", "smoke") == (pieces.MORE, "8.0smoke;")
    assert not (tmp_path / "out/chapters/a.ipynb").exists()


def test_an_error_is_no_pause(chapter, capsys):
    assert chapter("raise ValueError('k must be positive, not 0.')")[0] == 1
    assert "k must be positive, not 0." in capsys.readouterr().err


@pytest.mark.parametrize("options", [("--minutes", "0"), ("--minutes", "nan")])
def test_a_piece_takes_time(chapter, options):
    with pytest.raises(SystemExit):
        chapter(PAUSES, *options)
