"""`python -m reports store`: what is stored, what it costs in space, and clearing it."""

import os
import time

import pytest

from reports.__main__ import main
from reports.stored import DAY, stored_files


@pytest.fixture
def folder(tmp_path):
    """Three batches of 300 kB each, ten, five and no days old; something damaged, a lock, and a report."""
    for days, name in (
        (10, "clever/robust/a.safetensors"),
        (5, "clever/standard/b.safetensors"),
        (0, "black_box/robust/c.safetensors"),
        (20, "clever/robust/d.damaged"),
        (20, "clever/robust/a.lock"),
    ):
        path = tmp_path / "measurements" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 300_000)
        os.utime(path, (time.time() - days * DAY,) * 2)
    (tmp_path / "results.json").write_text("{}")
    return tmp_path


def left(folder):
    return "".join(sorted(file.path.name[0] for file in stored_files(folder / "measurements")))


def test_table(folder, capsys):
    main(["store", str(folder)])
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["model", "metric", "batches", "size", "age"],
        ["robust", "black_box", "1", "300.0", "kB", "0", "to", "0", "days"],
        ["robust", "clever", "1", "300.0", "kB", "10", "to", "10", "days"],
        ["robust", "left", "over", "1", "300.0", "kB", "20", "to", "20", "days"],
        ["standard", "clever", "1", "300.0", "kB", "5", "to", "5", "days"],
        ["all", "4", "1.2", "MB", "0", "to", "20", "days"],
    ]
    assert left(folder) == "abcd"


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        (["--model", "robust"], "b"),
        (["--older-than", "7"], "bc"),
        (["--older-than", "0"], ""),
        (["--down-to", "700kB"], "bc"),
        (["--down-to", "2GB"], "abcd"),
        (["--model", "standard", "--down-to", "1 MB"], "acd"),
        (["--model", "robust", "--older-than", "15"], "abc"),
        (["--all"], ""),
    ],
)
def test_clears_what_is_chosen(folder, capsys, options, kept):
    main(["store", str(folder / "measurements"), *options])
    assert left(folder) == "abcd", "nothing without --clear"
    main(["store", str(folder), "--clear", *options])
    assert left(folder) == kept
    assert f"cleared {4 - len(kept)} files" in capsys.readouterr().out
    assert (folder / "results.json").is_file()
    assert (folder / "measurements/clever/robust/a.lock").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--clear"], "got --clear alone, expected --model, --older-than, --down-to or --all with it"),
        (["--clear", "--all", "--model", "robust"], "got --all with another choice"),
        (["--model", "robbust"], "--model: got 'robbust', expected one of robust, standard"),
        (["--older-than", "-1"], "expected"),
        (["--older-than", "nan"], "got 'nan', expected a number of days, 0 or more"),
        (["--down-to", "5"], "got '5', expected a number and kB, MB, GB or TB: 500MB"),
    ],
)
def test_wrong_choices_are_one_line_and_clear_nothing(folder, capsys, options, message):
    with pytest.raises(SystemExit) as stopped:
        main(["store", str(folder), *options])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert left(folder) == "abcd"


def test_another_folder_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["store", str(tmp_path), "--clear", "--all"])
    assert "expected the folder of --results" in capsys.readouterr().err


def test_run_after_clearing_measures_again(measured_gate):
    gate = measured_gate
    chosen = ("--quick", "--norms", "linf", "--against", "robust", "-k", "real")
    main(["store", str(gate.results_folder), "--clear", "--model", "robust"])
    gate("-n0", *chosen)
    assert gate.results()["measurements"]["stored"] == 0
