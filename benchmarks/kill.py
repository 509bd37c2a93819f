"""Kill runs at random moments, and look for lost and wrong numbers: `python benchmarks/kill.py [runs]`, on Linux.

Each run is killed once, if it has not ended before: the controller, a worker (SIGKILL or SIGSEGV), a run without
workers, or all processes at once, as a power failure does. Stored batches are then compared, bit for bit, with those of
an undisturbed run. After every fifth kill, a run goes on to its end from what the killed ones left, and its records are
compared as well.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tables import header, row

ROOT = Path(__file__).parents[1]
OPTIONS = ("--quick", "--images", "8", "--batch-size", "4", "--norms", "linf", "--certify", "off")
KINDS = {
    "controller": ("-n2", signal.SIGKILL),
    "worker": ("-n2", signal.SIGKILL),
    "worker, SIGSEGV": ("-n2", signal.SIGSEGV),
    "no workers": ("-n0", signal.SIGKILL),
    "all at once": ("-n2", signal.SIGKILL),
}
GROUP = 5
MORE = 4
"""The most batches that a run measures before it is killed; there are 24."""
PATIENCE = 30.0
"""Seconds after a kill in which all other processes of the run have to end."""


@dataclass
class Tally:
    """What was counted for one kind of kill."""

    runs: int = 0
    killed: int = 0
    batches: int = 0
    faults: Counter = field(default_factory=Counter)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=int, nargs="?", default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draws = random.Random(options.seed)  # noqa: S311
    tallies = {kind: Tally() for kind in KINDS}
    resumed = Counter()
    with tempfile.TemporaryDirectory(prefix="kill-") as temporary:
        folder = Path(temporary)
        start = time.monotonic()
        assert finish(folder / "undisturbed", "-n2") in (0, 1)
        whole = time.monotonic() - start
        expected, records = batches(folder / "undisturbed"), records_of(folder / "undisturbed")
        store = folder / "killed"
        try:
            for number in range(options.runs):
                kind = draws.choice(list(KINDS))
                kill(store, kind, draws, whole, tallies[kind])
                compare(store, expected, tallies[kind])
                left, last = len(batches(store)), number % GROUP == GROUP - 1
                if last and 0 < left < len(expected):
                    resumed["runs"] += 1
                    resumed["batches read"] += left
                    finish(store, draws.choice(("-n0", "-n2")))
                    resumed["differing records"] += records_of(store) != records
                    resumed["differing batches"] += batches(store) != expected
                if last or left == len(expected):  # the next runs would only read it
                    shutil.rmtree(store, ignore_errors=True)
        finally:  # Ctrl-C shows what there is
            print_tables(tallies, resumed, whole)


def print_tables(tallies, resumed, whole):
    faults = ("another content", "no longer there", "unfinished under its name", "processes left")
    header("killed", "runs", "killed before the end", "stored batches compared", *faults)
    for kind, tally in tallies.items():
        row(kind, tally.runs, tally.killed, tally.batches, *(tally.faults[fault] for fault in faults))
    print()
    header(*resumed)
    row(*resumed.values())
    print(f"\nAn undisturbed run takes {whole:.0f} s.")


def command(folder, workers):
    return [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", workers, *OPTIONS, f"--results={folder}"]


def finish(folder, workers):
    return subprocess.run(command(folder, workers), cwd=ROOT, capture_output=True, check=False).returncode


def kill(folder, kind, draws, whole, tally):
    """Begin a run, kill a part of it at a random moment, and wait for the rest of it."""
    workers, number = KINDS[kind]
    before = batches(folder)
    process = subprocess.Popen(
        command(folder, workers),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    # While it starts or reads what is stored; or after a few more batches, in the middle of the next one.
    wanted = draws.randint(0, MORE)
    deadline = time.monotonic() + 10 * whole
    while len(batches(folder)) - len(before) < wanted and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(draws.uniform(0, 1) if wanted else draws.uniform(0, 0.5 * whole))
    tally.runs += 1
    group = members(process.pid)
    others = sorted(group - {process.pid})
    if kind.startswith("worker"):
        targets = [draws.choice(others)] if others else []
    else:
        targets = sorted(group) if kind == "all at once" else [process.pid]
    tally.killed += bool(targets) and process.poll() is None
    for target in targets:
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.kill(target, number)
    # A run whose worker was killed goes on; the others have to end.
    deadline = time.monotonic() + PATIENCE + (4 * whole if kind.startswith("worker") else 0)
    while members(process.pid) - {process.pid} or process.poll() is None:
        if time.monotonic() > deadline:
            tally.faults["processes left"] += 1
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            break
        time.sleep(0.1)
    tally.faults["no longer there"] += len(before.keys() - batches(folder).keys())


def compare(folder, expected, tally):
    found = batches(folder)
    tally.batches += len(found)
    for name, content in found.items():
        tally.faults["another content"] += content != expected.get(name)
        tally.faults["unfinished under its name"] += not content


def batches(folder):
    """The content of each stored batch, by its path."""
    files = (folder / "measurements").rglob("*.safetensors")
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def records_of(folder):
    """Outcome and values of each test, without what tells whether a number was stored, and the times."""
    records = json.loads((folder / "results.json").read_text())["records"]
    return [
        (
            record["test"],
            record["outcome"],
            record["message"],
            {name: value for name, value in record["values"].items() if name != "stored"},
        )
        for record in records
    ]


def members(group):
    """Processes of a process group that are alive."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name, in parentheses, may hold spaces: state, parent and group follow it.
            state, _, of = stat.read_text().rpartition(")")[2].split()[:3]
        except (OSError, ValueError):
            continue  # it has ended
        if int(of) == group and state != "Z":
            found.add(int(stat.parent.name))
    return found


if __name__ == "__main__":
    main()
