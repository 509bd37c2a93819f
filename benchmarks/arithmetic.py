"""Lower precision, layout and compilation: what they change, and what they save. `python benchmarks/arithmetic.py`,
with the root in PYTHONPATH.

precision  adversarial distances after a search in lower precision, as shares of those after one in float32; time
layout     time of forward + backward passes: usual layout over channels_last, and eager over torch.compile

All with one thread, as in the suite. `--device cuda` for a GPU.
"""

import argparse
import time

import torch

from benchmarks.subjects import subject
from benchmarks.tables import header, row
from metrics import adversarial_distance
from metrics.precision import PRECISIONS

PRECISION_OF = ("robust", "standard", "resnet20", "cnn_a_standard", "cnn_a_adv")
LAYOUT_OF = ("robust", "resnet20", "cnn_a_adv")


def precision(device, images):
    header("network", "norm", "search in", "median", "90 %", "largest", "time")
    for name in PRECISION_OF:
        network, clean, labels = (part.to(device) for part in subject(name, images))
        for norm in ("linf", "l2"):
            found, took = {}, {}
            for arithmetic in ("float32", "bf16") if device == "cpu" else PRECISIONS:
                start = time.perf_counter()
                found[arithmetic] = adversarial_distance(
                    network, clean, labels, norm=norm, precision=arithmetic, seed=range(len(clean)), batch_size=20
                )
                took[arithmetic] = time.perf_counter() - start
            for arithmetic in list(found)[1:]:
                ratio = found[arithmetic].distance / found["float32"].distance
                cells = [f"{float(ratio.quantile(share)):.4f}" for share in (0.5, 0.9, 1.0)]
                row(name, norm, arithmetic, *cells, f"{took[arithmetic] / took['float32']:.2f}")


def layout(device, images):
    header("network", "batch", "channels_last", "torch.compile", "seconds to compile")
    for name in LAYOUT_OF:
        network, clean, _ = (part.to(device) for part in subject(name, images))
        for count in (20, 100):
            batch = clean[torch.arange(count, device=device) % len(clean)]
            usual = seconds(network, batch)
            start = time.perf_counter()
            compiled = torch.compile(network)
            passed(compiled, batch)
            compiling = time.perf_counter() - start
            eager_over_compiled = usual / seconds(compiled, batch)
            torch.compiler.reset()
            network.to(memory_format=torch.channels_last)
            last = seconds(network, batch.to(memory_format=torch.channels_last))
            network.to(memory_format=torch.contiguous_format)
            row(name, count, f"{usual / last:.2f}", f"{eager_over_compiled:.2f}", f"{compiling:.0f}")


def passed(network, batch):
    leaves = batch.clone().requires_grad_(True)
    torch.autograd.grad(network(leaves).amax(dim=1).sum(), leaves)[0].sum().item()


def seconds(network, batch):
    """The shortest of three runs of half a second each, for one forward and backward pass of the batch."""
    passed(network, batch)
    shortest = float("inf")
    for _ in range(3):
        start, passes = time.perf_counter(), 0
        while time.perf_counter() - start < 0.5:
            passed(network, batch)
            passes += 1
        shortest = min(shortest, (time.perf_counter() - start) / passes)
    return shortest


PARTS = {"precision": precision, "layout": layout}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    if unknown := [part for part in options.parts if part not in PARTS]:
        parser.error(f"got {unknown[0]!r}, expected some of {', '.join(PARTS)}")
    torch.set_num_threads(1)
    for part in options.parts:
        PARTS[part](options.device, options.images)


if __name__ == "__main__":
    main()
