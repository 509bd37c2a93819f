"""Peak memory of a process that reads N pictures of 224x224 pixels, as a worker does: `python benchmarks/memory.py`.

The pictures are JPEG files in a temporary folder. Each N has a process of its own.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from tables import header, row

from robustness_tests.subjects.datasets import load_dataset
from robustness_tests.subjects.image_size import image_size
from robustness_tests.subjects.sources import dataset_source


def write(folder, count):
    rng = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"{number % 10}" / f"{number:05d}.jpg"
        path.parent.mkdir(exist_ok=True)
        rough = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(rough).resize((300, 260), Image.Resampling.BICUBIC).save(path)


def read(folder, count):
    """All images in batches of 20, as for a metric. Peak memory in MiB."""
    found = load_dataset(dataset_source(f"folder:{folder}", Path()), Path(), count, image_size("256/224"))
    for batch in found.images.split(20):
        assert batch.shape[1:] == (3, 224, 224)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5_000, help="the largest N")
    parser.add_argument("--read", nargs=2, metavar=("FOLDER", "N"), help="what the processes of this script do")
    options = parser.parse_args()
    if options.read:
        print(f"{read(options.read[0], int(options.read[1])):.0f}")
        return
    header("images", "peak memory, MiB", "all of them as float32, MiB")
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), options.images)
        for count in sorted({20, options.images // 10, options.images}):
            command = [sys.executable, __file__, "--read", folder, str(count)]
            peak = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
            row(f"{count:,}", peak, f"{count * 3 * 224 * 224 * 4 / 2**20:,.0f}")


if __name__ == "__main__":
    main()
