"""How often each metric makes the CPU wait for a GPU: `python benchmarks/synchronisations.py`.

A GPU works through a queue. An operation whose result, or the size of it, is needed on the CPU ends the queue: `item`,
`tolist`, `bool`, a boolean mask as an index, `nonzero`. This script counts them, on a CPU, where they cost nothing.
"""

import argparse
import sys
from collections import Counter

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from benchmarks.subjects import DIGITS, subject
from benchmarks.tables import header, row
from metrics import adversarial_distance, certified_distance, clever, noise_accuracy, smoothed_radius

WAITING = {
    "__bool__", "__float__", "__index__", "__int__", "allclose", "bincount", "cpu", "equal", "is_nonzero", "item",
    "masked_select", "nonzero", "numpy", "tolist", "unique",
}  # fmt: skip
INDEXING = {"__getitem__", "__setitem__", "index_put_"}


RADII = {"linf": 0.25, "l2": 1.25, "l1": 3.0}


class Synchronisations(TorchFunctionMode):
    """Counts the operations that wait, by the line of `metrics` that asks for them."""

    def __init__(self):
        super().__init__()
        self.lines = Counter()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if _waits(function, args):
            self.lines[_line_of_metrics()] += 1
        return function(*args, **(kwargs or {}))


def _waits(function, args):
    name = getattr(function, "__name__", "")
    if name in WAITING:
        return True
    if name in INDEXING:
        index = args[1] if isinstance(args[1], tuple) else (args[1],)
        return any(isinstance(part, Tensor) and part.dtype == torch.bool for part in index)
    if name == "where":
        return len(args) == 1
    # A table of repeats has to be summed to know the size of the result.
    return name == "repeat_interleave" and len(args) > 1 and isinstance(args[1], Tensor)


def _line_of_metrics():
    frame = sys._getframe(2)  # noqa: SLF001  # the line that asks
    while frame and "/metrics/" not in frame.f_code.co_filename:
        frame = frame.f_back
    if frame is None:
        return "elsewhere"
    return f"{frame.f_code.co_filename.rpartition('/metrics/')[2]}:{frame.f_lineno}"


class Calls:
    """A model that counts how often it is called, with a whole batch each time."""

    def __init__(self, model):
        self.model = model
        self.calls = 0

    def __call__(self, images):
        self.calls += 1
        return self.model(images)


def runs(images, labels, norm, radius):
    """By name: a function that measures a model."""
    yield "adversarial_distance", lambda model: adversarial_distance(model, images, labels, norm=norm)
    yield (
        "clever",
        lambda model: clever(
            model, images, labels, norm=norm, radius=radius, blocks=40, block_size=24, batch_size=5 * len(images)
        ),
    )
    few = images[:4], labels[:4]
    if norm != "l1":
        yield "certified_distance", lambda model: certified_distance(model, *few, norm=norm)
    yield "noise_accuracy", lambda model: noise_accuracy(model, images, labels, norm=norm, epsilons=[radius])
    if norm == "l2":
        yield "smoothed_radius", lambda model: smoothed_radius(model, images, labels, sigma=0.25, samples=1_000)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--model", default="robust", choices=DIGITS)
    parser.add_argument("--norms", nargs="+", default=["linf", "l2"], choices=RADII)
    parser.add_argument("--lines", type=int, default=0, help="show so many lines that wait most often")
    options = parser.parse_args()
    torch.set_num_threads(1)
    network, images, labels = subject(options.model, options.images)
    header("metric", "norm", "calls of the model", "synchronisations", "for each call")
    for norm in options.norms:
        for name, run in runs(images, labels, norm, RADII[norm]):
            model = Calls(network)
            with Synchronisations() as counted:
                run(model)
            total = sum(counted.lines.values())
            row(name, norm, model.calls, total, f"{total / model.calls:.2f}")
            for line, count in counted.lines.most_common(options.lines):
                print(f"    {count:6,}  {line}")


if __name__ == "__main__":
    main()
