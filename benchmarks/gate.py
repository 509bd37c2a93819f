"""Passes and time of both metrics against the bare model, on the bundled models: `python benchmarks/gate.py`.

Passes are exact and repeatable. Time is a ratio to forward + backward passes of the same batch shape in the same run.
"""

import argparse
import time

import torch

from metrics import Status, adversarial_distance, clever
from robustness_tests.subjects.catalog import DATASETS, MODELS, models_of
from robustness_tests.subjects.datasets import digits
from robustness_tests.subjects.models import bundled


def seconds_per_pass(network, images, rows, backward_share):
    """Of a bare forward pass, and as many backward passes to the input as the metric makes for each."""
    batch = images[torch.arange(rows) % len(images)]
    start, passes = time.perf_counter(), 0
    while time.perf_counter() - start < 2:
        inputs = batch.clone().requires_grad_(True)
        logits = network(inputs)
        whole = int(backward_share) + 1
        for number in range(whole):
            torch.autograd.grad(logits[:, number % 10].sum(), inputs, retain_graph=number + 1 < whole)
        passes += rows * (1 + whole)
    return (time.perf_counter() - start) / passes


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = digits("test")
    images, labels = data.images[: options.images], data.labels[: options.images]
    print("| model | metric | norm | median | forward | backward | time per pass / bare |")
    print("|---|---|---|---|---|---|---|")
    for name in models_of("digits"):
        card = MODELS["digits", name]
        network = bundled(card)
        for norm, radius in DATASETS["digits"].clever_radius.items():
            rows = options.batch_size
            runs = {
                f"distance, {effort}": (
                    rows,
                    lambda effort=effort, norm=norm, network=network: adversarial_distance(
                        network, images, labels, norm=norm, effort=effort, batch_size=options.batch_size
                    ),
                )
                for effort in ("quick", "default", "thorough")
            }
            runs["CLEVER"] = (
                5 * rows,
                lambda norm=norm, radius=radius, network=network: clever(
                    network, images, labels, norm=norm, radius=radius, batch_size=5 * options.batch_size
                ),
            )
            for metric, (in_a_pass, run) in runs.items():
                start = time.perf_counter()
                found = run()
                took = time.perf_counter() - start
                good = (found.status == Status.ATTACKED) | (found.status == Status.ESTIMATED)
                values = found.score if metric == "CLEVER" else found.distance
                forward, backward = found.forward.sum(), found.backward.sum()
                bare = seconds_per_pass(network, images, in_a_pass, 0 if metric != "CLEVER" else 1)
                ratio = took / float(forward + backward) / bare
                print(
                    f"| {name} | {metric} | {norm} | {values[good].median():.4f} | {forward / len(images):.0f} "
                    f"| {backward / len(images):.0f} | {ratio:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
