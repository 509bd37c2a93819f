"""Put what several shards have measured into one store: `python -m reports merge shard-*/ --results DIR`."""

import argparse
import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from reports.stored import aligned, measurements_in, stored_files
from robustness_tests.harness.shards import NOTES, ShardNote, in_words, lost_files, missing_shards, read_notes


def merge(source: Path, target: Path) -> tuple[int, list[Path]]:
    """Copy the batches and notes of a store to another one.

    Returns:
        The number of batches copied, and the batches that are there with another content, below the folder: these stay
        as they are.
    """
    copied, different = 0, []
    for file in (one for one in stored_files(source) if not one.left_over):
        name = file.path.relative_to(source)
        if not (target / name).exists():
            _copy(file.path, target / name)
            copied += 1
        elif file.path.read_bytes() != (target / name).read_bytes():
            different.append(name)
    for note in read_notes(source):
        _copy(source / NOTES / note.file, target / NOTES / note.file)
    return copied, different


def _copy(source: Path, target: Path) -> None:
    """Copy a file as a whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(f".{os.getpid()}.partial")
    shutil.copy2(source, partial)
    partial.replace(target)


def table(notes: Iterable[ShardNote]) -> list[str]:
    """A line for each shard."""
    lines = [("shard", "batches", "failed", "passes", "seconds", "machine")]
    for note in sorted(notes, key=lambda one: (one.plan, one.shards, one.shard)):
        counts = (f"{note.batches:,}", f"{len(note.failed):,}", f"{note.passes:,}", f"{note.seconds:,.0f}")
        lines.append((f"{note.shard}/{note.shards}", *counts, note.machine))
    return aligned(lines)


def main(arguments: Sequence[str]) -> None:
    """Merge, print a line for each shard, and end with status 1 if something is missing, failed or contradictory."""
    parser = argparse.ArgumentParser(prog="python -m reports merge", description=__doc__.partition(":")[0] + ".")
    parser.add_argument("shards", nargs="+", help="folders of --results or --store of the shards")
    parser.add_argument("--results", default="robustness-results", help="that of the run that follows")
    parser.add_argument("--store", help="that of the run that follows; default: measurements in --results")
    given = parser.parse_args(arguments)
    target = Path(given.store) if given.store else Path(given.results) / "measurements"
    problems: list[str] = []
    notes: list[ShardNote] = []
    try:
        for text in given.shards:
            source = measurements_in(Path(text), parser.error)
            notes += read_notes(source)
            copied, different = merge(source, target) if source.resolve() != target.resolve() else (0, [])
            sys.stdout.write(f"{text}: {copied:,} batches\n")
            problems += [f"got another content of {name} from {text}, expected equal bits" for name in different]
    except OSError as error:
        parser.error(f"got {error.filename}, which cannot be copied to {target}: {error.strerror}")
    sys.stdout.write("\n".join([*table(notes), ""]))
    problems += problems_of(notes, target)
    for problem in problems:
        sys.stderr.write(f"python -m reports merge: {problem}\n")
    if problems:
        raise SystemExit(1)


def problems_of(notes: Sequence[ShardNote], target: Path) -> list[str]:
    """What the run that follows would have to measure, in sentences."""
    if not notes:
        return ["got no note of a shard, expected those that --shard leaves: did the shards end?"]
    found = []
    missing = missing_shards(notes)
    whole = {plan for (plan, _), lost in missing.items() if not lost}
    for (plan, count), lost in missing.items():
        if plan not in whole:
            found.append(f"{in_words(lost)} of {count} missing: the run that follows measures what they lack")
    for note in notes:
        found += [f"{name} failed in shard {note.shard} of {note.shards}" for name in note.failed]
        lost_ones = lost_files(target, note)
        if lost_ones:
            found.append(f"{len(lost_ones)} batches of shard {note.shard} of {note.shards} are not in the store")
    if len({note.plan for note in notes}) > 1:
        found.append("got shards of several runs, with other options, models, images or devices, expected one run")
    return found
