"""Bias and coverage of the end-point estimate on laws with a known end-point: `python benchmarks/extreme_value.py`."""

import argparse

import numpy as np
import torch

from metrics.extreme_value import end_point

LAWS = {
    "1 + beta(4, 4) / 10": (lambda random, size: 1 + 0.1 * random.beta(4, 4, size), 1.1),
    "1 + beta(8, 8) / 10": (lambda random, size: 1 + 0.1 * random.beta(8, 8, size), 1.1),
    "beta(2, 2)": (lambda random, size: random.beta(2, 2, size), 1.0),
    "beta(2, 5)": (lambda random, size: random.beta(2, 5, size), 1.0),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=2000)
    repeats = parser.parse_args().repeats
    print("| law | samples | mean / truth | sd | 95 % interval covers | largest sample / truth |")
    print("|---|---|---|---|---|---|")
    for blocks, size in ((50, 64), (40, 24)):
        for name, (draw, end) in LAWS.items():
            maxima = torch.from_numpy(draw(np.random.default_rng(0), (repeats, blocks, size)).max(axis=2))
            found = end_point(maxima)
            estimate, largest = found.estimate / end, maxima.amax(dim=1) / end
            covers = ((found.lower <= end) & (end <= found.upper)).double().mean()
            print(
                f"| {name} | {blocks} x {size} | {estimate.mean():.4f} | {estimate.std():.4f} "
                f"| {covers:.1%} | {largest.mean():.4f} |"
            )


if __name__ == "__main__":
    main()
