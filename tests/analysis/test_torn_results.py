"""What a kill leaves of lm-eval's own files: the newest whole ones are read, or it is refused."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from run_folders import record, write_run

from nabla_eval.analysis.folders import read_folder
from nabla_eval.analysis.study import load
from nabla_eval.errors import DataError

OLD, NEW = "2026-11-24T10-00-00.000001", "2026-11-24T11-00-00.000001"


def twice_evaluated(folder: Path) -> tuple[Path, Path]:
    """A run that was evaluated twice; the newer results and samples."""
    write_run(folder, [record(0), record(1)], [1.0, 0.0], date=OLD, seed=3)
    write_run(folder, [], [1.0, 0.0], date=NEW, seed=3)
    inner = folder / "model"
    return inner / f"results_{NEW}.json", inner / f"samples_toy_{NEW}.jsonl"


@pytest.fixture
def newer(tmp_path: Path) -> tuple[Path, Path]:
    return twice_evaluated(tmp_path / "a")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True), which=st.sampled_from([0, 1]))
def test_wherever_a_file_is_torn_the_scores_are_right(
    newer: tuple[Path, Path], share: float, which: int
) -> None:
    file, home = newer[which], newer[0].parent.parent
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            (part,) = read_folder(home)
        assert part.scores == {"toy/0": [1.0], "toy/1": [0.0]} and part.seed == 3
    except DataError as error:  # torn between two lines: its problems are not those of the traces
        assert which == 1 and "run the same command again" in str(error)
    finally:
        file.write_bytes(whole)


@pytest.mark.parametrize("which", [0, 1])
def test_a_torn_file_is_named_and_so_is_what_is_read_instead(
    newer: tuple[Path, Path], which: int
) -> None:
    file, home = newer[which], newer[0].parent.parent
    file.write_bytes(file.read_bytes()[:20])
    with pytest.warns(UserWarning) as told:
        load([home])
    (words,) = [str(one.message) for one in told if "is read instead" in str(one.message)]
    assert file.name in words and file.name.replace(NEW, OLD) in words


@pytest.mark.parametrize(
    ("which", "message"),
    [
        (0, r"results_.* cannot be read \(.+\)\. Run again"),
        (1, r"samples_.*:1 is damaged \(.+\)\. Evaluate again"),
    ],
)
def test_where_every_file_is_torn_it_is_refused(
    newer: tuple[Path, Path], which: int, message: str
) -> None:
    for file in (newer[which], Path(str(newer[which]).replace(NEW, OLD))):
        file.write_bytes(file.read_bytes()[:20])
    with pytest.warns(UserWarning), pytest.raises(DataError, match=message):
        load([newer[0].parent.parent])
