"""Memory and open files of every process of a long run: `python benchmarks/soak.py [images]`, on Linux.

A tiny network on random images, so that what the harness keeps counts and not what a model needs. There are two tests
for each image. Figures are taken twice in a second, and shown at quarters of the time between first and last test.
"""

import argparse
import json
import os
import runpy
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from kill import ROOT, members
from tables import header, row

NET = """
import torch
from torch import nn

def factory():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
"""
SECONDS_BETWEEN_LOOKS = 0.5
SHOWN = (0, 0.25, 0.5, 0.75, 1)
PAGE = os.sysconf("SC_PAGE_SIZE")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=int, nargs="?", default=10_000)
    parser.add_argument("--workers", type=int, default=4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as temporary:
        folder = Path(temporary)
        write_subjects(folder, options.images)
        start = time.monotonic()
        process = subprocess.Popen(
            command(folder, options.workers), cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True
        )
        looks = []
        while process.poll() is None:
            looks.append((stored(folder), {number: figures(number) for number in members(process.pid)}))
            time.sleep(SECONDS_BETWEEN_LOOKS)
        seconds = time.monotonic() - start
        show(process.pid, looks)
        results = folder / "results"
        tests = json.loads((results / "results.json").read_text())["tests"]
        sizes = [f"{name} {(results / name).stat().st_size / 1e6:.1f} MB" for name in ("results.json", "report.html")]
        print(f"\n{tests}, exit status {process.returncode}, {seconds:.0f} s, {', '.join(sizes)}.")


def write_subjects(folder, count):
    (folder / "net.py").write_text(NET)
    images = np.random.default_rng(0).random((count, 3, 2, 2), np.float32)
    with torch.no_grad():
        labels = runpy.run_path(str(folder / "net.py"))["factory"]()(torch.from_numpy(images)).argmax(dim=1)
    np.savez(folder / "data.npz", images=images, labels=labels.numpy())


def command(folder, workers):
    net, data = f"{folder / 'net.py'}:factory", f"npz:{folder / 'data.npz'}"
    options = ("--quick", "--norms=linf", "--certify=off", "--batch-size=100", "--clever-radius=linf=0.5")
    count = len(np.load(folder / "data.npz")["labels"])
    subject = (f"--model={net}", f"--dataset={data}", f"--images={count}", f"--results={folder / 'results'}")
    pytest = ("-m", "pytest", "-q", "-p", "no:cacheprovider", f"-n{workers}")
    return [sys.executable, *pytest, *options, *subject]


def stored(folder):
    return sum(1 for _ in (folder / "results").rglob("*.safetensors"))


def figures(number):
    """MiB that are resident, and the number of open files; None of a process that has just ended."""
    try:
        pages = int(Path(f"/proc/{number}/statm").read_text().split()[1])
        return pages * PAGE / 2**20, len(list(Path(f"/proc/{number}/fd").iterdir()))
    except OSError:
        return None


def show(controller, looks):
    first = next(number for number, (batches, _) in enumerate(looks) if batches)
    stored_last = next(number for number, (batches, _) in enumerate(looks) if batches == looks[-1][0])
    lasting = looks[first][1].keys() & looks[stored_last][1].keys()
    last = max(number for number, (_, found) in enumerate(looks) if all(found.get(one) for one in lasting))
    header("process", *(f"MiB at {share:.0%}" for share in SHOWN), *(f"open files at {share:.0%}" for share in SHOWN))
    for number in sorted(lasting):
        at = [looks[first + round(share * (last - first))][1][number] for share in SHOWN]
        name = "controller" if number == controller else "worker"
        row(name, *(f"{memory:.0f}" for memory, _ in at), *(files for _, files in at))
    peak = max(found[controller][0] for _, found in looks[last:] if found.get(controller))
    print(f"\nThe controller has {peak:.0f} MiB while it writes the reports.")


if __name__ == "__main__":
    main()
