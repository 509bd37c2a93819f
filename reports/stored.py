"""Show what is stored, and clear it: `python -m reports store robustness-results`."""

import argparse
import contextlib
import re
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from robustness_tests.harness.shards import NOTES, lost_files, read_notes

DAY = 24 * 3600
UNITS = {"kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}
LEFT_OVER = (".damaged", ".partial")
"""Endings of files that no run reads. A lock is no such file: another process may hold it."""


@dataclass(frozen=True)
class StoredFile:
    """A file of the store: a batch, or what is left of one.

    Attributes:
        path: below the folder of measurements: METRIC/MODEL/FILE.
        size: in bytes.
        modified: when it was written, in seconds since the epoch.
    """

    path: Path
    metric: str
    model: str
    size: int
    modified: float

    @property
    def left_over(self) -> bool:
        """Whether no run reads it."""
        return self.path.suffix in LEFT_OVER


def stored_files(folder: Path) -> list[StoredFile]:
    """The files of a folder of measurements, the oldest first."""
    found = []
    for path in folder.glob("*/*/*"):
        if path.suffix in (".safetensors", *LEFT_OVER) and path.is_file():
            with contextlib.suppress(FileNotFoundError):  # another process has just put it aside
                about = path.stat()
                found.append(StoredFile(path, path.parts[-3], path.parts[-2], about.st_size, about.st_mtime))
    return sorted(found, key=lambda file: (file.modified, file.path))


def table(files: Iterable[StoredFile], now: float) -> list[str]:
    """A line for each model and metric, and one for all."""
    groups: dict[tuple[str, str], list[StoredFile]] = {}
    files = list(files)
    for file in files:
        groups.setdefault((file.model, "left over" if file.left_over else file.metric), []).append(file)
    lines = [("model", "metric", "batches", "size", "age")]
    for (model, metric), group in [*sorted(groups.items()), (("all", ""), files)]:
        ages = [(now - file.modified) / DAY for file in group]
        age = f"{min(ages):.0f} to {max(ages):.0f} days" if ages else ""
        lines.append((model, metric, f"{len(group):,}", size_text(sum(file.size for file in group)), age))
    return aligned(lines)


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Lines of text with columns of equal width."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def to_clear(
    files: Sequence[StoredFile], now: float, *, model: str | None, days: float | None, size: float | None
) -> list[StoredFile]:
    """The files of a model, or older than some days; of these, the oldest until the whole store is of at most `size`.

    What is not given does not restrict.
    """
    chosen = [
        file
        for file in files
        if (model is None or file.model == model) and (days is None or now - file.modified > days * DAY)
    ]
    if size is None:
        return chosen
    total, cleared = sum(file.size for file in files), []
    for file in chosen:
        if total <= size:
            break
        cleared.append(file)
        total -= file.size
    return cleared


def size_text(size: float) -> str:
    """A size in words.

    Example:
        >>> size_text(1_234_567)
        '1.2 MB'
    """
    unit = next((name for name in ("TB", "GB", "MB") if size >= UNITS[name]), "kB")
    return f"{size / UNITS[unit]:.1f} {unit}"


def parsed_size(text: str) -> float:
    """A size such as 500MB or 2GB, in bytes."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(kB|MB|GB|TB)", text.strip(), re.ASCII | re.IGNORECASE)
    if not match:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a number and kB, MB, GB or TB: 500MB")
    return float(match[1]) * {name.lower(): bytes_ for name, bytes_ in UNITS.items()}[match[2].lower()]


def parsed_days(text: str) -> float:
    """A number of days, 0 or more."""
    if not re.fullmatch(r"\d{1,6}(\.\d+)?", text.strip(), re.ASCII):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a number of days, 0 or more")
    return float(text)


def main(arguments: Sequence[str]) -> None:
    """Print a table; with `--clear`, remove files, and say what was removed."""
    parser = argparse.ArgumentParser(prog="python -m reports store", description=__doc__.partition(":")[0] + ".")
    parser.add_argument("folder", nargs="?", default="robustness-results", help="that of --results or --store")
    parser.add_argument("--clear", action="store_true", help="remove what the other options choose")
    parser.add_argument("--model", help="of this model")
    parser.add_argument("--older-than", type=parsed_days, metavar="DAYS", help="measured more than so many days ago")
    parser.add_argument("--down-to", type=parsed_size, metavar="SIZE", help="the oldest, until the store is that small")
    parser.add_argument("--all", action="store_true", help="with --clear: everything")
    given = parser.parse_args(arguments)
    folder = measurements_in(Path(given.folder), parser.error)
    limits = {"model": given.model, "days": given.older_than, "size": given.down_to}
    chooses = any(value is not None for value in limits.values())
    if given.all and chooses:
        parser.error("got --all with another choice, expected one of the two")
    if given.clear and not (given.all or chooses):
        parser.error("got --clear alone, expected --model, --older-than, --down-to or --all with it")
    now, files = time.time(), stored_files(folder)
    models = sorted({file.model for file in files})
    if given.model is not None and given.model not in models:
        parser.error(f"--model: got {given.model!r}, expected one of {', '.join(models) or 'none: nothing is stored'}")
    chosen = to_clear(files, now, **limits)
    lines = table(chosen, now)
    if given.clear:
        for file in chosen:
            file.path.unlink(missing_ok=True)
        for note in read_notes(folder):
            if lost_files(folder, note):
                (folder / NOTES / note.file).unlink(missing_ok=True)
        lines.append(f"cleared {len(chosen):,} files, {size_text(sum(file.size for file in chosen))}")
    sys.stdout.write("\n".join([*lines, ""]))


def measurements_in(folder: Path, error: Callable[[str], object]) -> Path:
    """The folder of measurements of `--results` or `--store`. Calls `error`, which raises, if there is none."""
    if (folder / "measurements").is_dir():
        return folder / "measurements"
    if folder.is_dir() and (folder.name == "measurements" or (folder / NOTES).is_dir() or stored_files(folder)):
        return folder
    error(f"got {str(folder)!r}, expected the folder of --results, with a folder measurements in it, or of --store")
    raise AssertionError  # argparse ends the program
