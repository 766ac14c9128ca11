"""Each error that users can cause stands in the README, and nothing stands there that none says."""

from __future__ import annotations

from pathlib import Path

import pytest
from error_sites import Recorder, Site, listed, plain, rows_written, shown, sites, split


@pytest.fixture(scope="module")
def rows() -> list[str]:
    return listed()


def test_every_error_has_a_row(rows: list[str]) -> None:
    absent = [
        f"{site.file}:{site.first}: {site.template}"
        for site in sites()
        if not (site.bare or site.part) and not any(site.says(row) for row in rows)
    ]
    assert not absent, (
        "These errors are in neither table of the README. Provoke each in a test, then run "
        "`make errors`:\n" + "\n".join(absent)
    )


def test_every_row_is_an_error_of_the_code() -> None:
    """But for those whose words come from elsewhere, of which there are as many as such places."""
    known = [site for site in sites() if not site.bare]
    rows = [plain(" ".join(row[1:])) for row in rows_written()]
    stale = [
        row for row in rows if "[...]" not in row and not any(site.says(row) for site in known)
    ]
    assert len(stale) <= sum(site.bare for site in sites()), (
        "No code says this any more; run `make errors`:\n" + "\n".join(stale)
    )


def test_every_row_says_what_to_try() -> None:
    assert not [row for row in rows_written() if not row[2]]


def test_messages_are_shown_without_what_differs_between_runs() -> None:
    text = "There is no /tmp/pytest-of-me/pytest-3/test_x0/run/a.json at 127.0.0.1:47110. Look."
    assert shown(text) == shown(text.replace("test_x0", "popen-gw1/test_x0"))
    assert shown(text) == "There is no FOLDER/run/a.json at 127.0.0.1:PORT. Look."
    assert split(shown(text))[1] == "Look."
    assert split("No run 'x'. Known names: a. Try a.") == ("No run 'x'. Known names: a.", "Try a.")


def test_a_row_is_told_by_the_literal_parts_of_its_message() -> None:
    site = Site("f.py", 1, 1, "There is no run ... at .... Give one.")
    assert site.says("There is no run 'a' at FOLDER/x. Give one.")
    assert not site.says("There is no run 'a'. Give one.")


def test_the_recorder_notes_the_place(tmp_path: Path) -> None:
    from nabla_eval import errors
    from nabla_eval.methods.registry import configure

    original = errors.NablaError.__init__
    recorder = Recorder(tmp_path)
    try:
        recorder.test = "test_here"
        with pytest.raises(errors.ConfigError):
            configure("nabla", {"n": 0})
    finally:
        errors.NablaError.__init__ = original  # type: ignore[method-assign]
    (found,) = recorder.seen.values()
    assert found[0][0] == "test_here" and "n=0 is out of range" in found[0][1]
    recorder.pytest_sessionfinish()
    assert list(tmp_path.iterdir())
