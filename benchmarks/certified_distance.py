"""Certified and exact distances: sound, how tight, how dear.

Run: python benchmarks/certified_distance.py soundness|tightness|cost|verdicts|exact
The networks for MNIST and the published verdicts are in a folder `shared/truth` beside the checkout, which is not
public: without it, a command that needs them ends with the name of the file.
"""

import argparse
import copy
import csv
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import subjects
import torch
from safetensors.torch import load_file
from tables import header, row
from torch import nn
from torch.nn import functional

from metrics import Status, adversarial_distance, certified_distance, exact_distance
from metrics.norms import vector_norm
from robustness_tests.subjects.catalog import MODELS
from robustness_tests.subjects.datasets import digits as digits_of
from robustness_tests.subjects.fully_connected import FullyConnected
from robustness_tests.subjects.images import Images
from robustness_tests.subjects.models import bundled as load_bundled
from robustness_tests.subjects.training import RECIPES, Recipe, train

TRUTH = Path(__file__).parents[2] / "shared" / "truth"
TRIALS = 100_000


def bundled(name):
    digits = digits_of("test")
    return load_bundled(MODELS["digits", name]), digits


def mnist(layers):
    modules = [nn.Flatten(), nn.Linear(784, 256), nn.ReLU()]
    for _ in range(layers - 1):
        modules += [nn.Linear(256, 256), nn.ReLU()]
    network = nn.Sequential(*modules, nn.Linear(256, 10)).eval().requires_grad_(False)
    network.load_state_dict(load_file(TRUTH / f"mnist_fc_256x{layers}.safetensors"))
    return network


def verdicts(layers):
    rows = [
        one for one in csv.DictReader((TRUTH / "mnist_verdicts.csv").open()) if one["network"].endswith(f"x{layers}")
    ]
    images = torch.from_numpy(np.load(TRUTH / "mnist_images.npz")["images"]).float().div(255)
    labels = torch.tensor([int(one["label"]) for one in rows])
    return rows, Images(images[[int(one["image"]) for one in rows]], labels)


class Rewritten(nn.Module):
    """A network behind (x - mean) / std, written as a batch normalisation or as a convolution of 1x1 pixels."""

    def __init__(self, normalised, how):
        super().__init__()
        mean, std = normalised.mean.flatten(), normalised.std.flatten()
        if how == "batch norm":
            self.first = nn.BatchNorm2d(3, affine=False, eps=0.0)
            self.first.running_mean.copy_(mean)
            self.first.running_var.copy_(std**2)
        else:
            self.first = nn.Conv2d(3, 3, 1)
            self.first.weight.data = torch.diag(1 / std).view(3, 3, 1, 1)
            self.first.bias.data = -mean / std
        self.network = copy.deepcopy(normalised.network)

    def forward(self, images):
        return self.network(self.first(images))


def networks(count):
    """(name, network, images, labels): images that the network classifies correctly."""
    for name in ("robust", "standard"):
        yield f"digits {name}", *subjects.subject(name, count)
    mlp, digits = bundled("mlp")
    yield "digits mlp", mlp, *right(mlp, digits, count)
    yield "CNN standard", *subjects.subject("cnn_a_standard", count)
    cnn_a_adv, images, labels = subjects.subject("cnn_a_adv", count)
    yield "CNN adv, elementwise", cnn_a_adv, images, labels
    for how in ("batch norm", "1x1 convolution"):
        yield f"CNN adv, {how}", Rewritten(cnn_a_adv, how).eval().requires_grad_(False), images, labels
    for layers in (2, 4):
        yield f"MNIST 256x{layers}", mnist(layers), *right(mnist(layers), verdicts(layers)[1], count)


def right(network, split, count):
    rows = (network(split.images).argmax(dim=1) == split.labels).nonzero().flatten()[:count]
    return split.images[rows], split.labels[rows]


def walk(network, images, labels, radii, norm, generator, steps=12):
    """Random images of the balls and their corners, and steps of projected gradient ascent from there."""
    points, shape = torch.randn(images.shape, generator=generator), (-1, 1, 1, 1)
    if norm == "linf":
        points = torch.where(torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5, points, points.sign())
    for step in range(steps):
        points = points / vector_norm(points, norm).clamp_min(1e-12).view(shape)
        inside = (images + points * radii.view(shape) * (1 - 1e-6)).clamp(0, 1)
        yield inside
        leaf = inside.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(functional.cross_entropy(network(leaf), labels, reduction="sum"), leaf)
        size = vector_norm(gradient, norm).clamp_min(1e-30).view(shape)
        points = gradient.sign() if norm == "linf" else points + (1 + step) * gradient / size


def soundness():
    """Images within certified radii: none may be of another class."""
    header("network", "norm", "certified", "trials", "violations")
    everything = [
        (name, network, images, labels, norm)
        for name, network, images, labels in networks(16)
        for norm in ("linf", "l2")
    ]
    each, total = TRIALS // len(everything) + 1, [0, 0]
    for name, network, images, labels, norm in everything:
        found = certified_distance(network, images, labels, norm=norm)
        proved = found.status == Status.CERTIFIED
        inside, of = images[proved], labels[proved]
        generator, trials, violations = torch.Generator().manual_seed(0), 0, 0
        while trials < each:
            for points in walk(network, inside, of, found.distance[proved], norm, generator):
                with torch.no_grad():
                    violations += int((network(points).argmax(dim=1) != of).sum())
                trials += len(points)
        total = [total[0] + trials, total[1] + violations]
        row(name, norm, f"{int(proved.sum())} of {len(proved)}", f"{trials:,}", violations)
    row("all", "", "", f"{total[0]:,}", total[1])


def tightness(budget=1e11):
    """Certified / adversarial distance, and what an image costs."""
    header(
        "network", "norm", "certified", "median certified / adversarial", "10 to 90 %", "radii", "passes", "s an image"
    )
    for name, network, images, labels in networks(16):
        for norm in ("linf", "l2"):
            tightness_row(name, network, images, labels, norm, budget)
    for name in ("resnet20", "wrn16_1_standard", "wrn16_1_corruption"):
        tightness_row(name, *subjects.subject(name, 1), "linf", budget)


def tightness_row(name, network, images, labels, norm, budget):
    begun = time.monotonic()
    found = certified_distance(network, images, labels, norm=norm, budget=budget)
    seconds = (time.monotonic() - begun) / len(images)
    proved = found.status == Status.CERTIFIED
    texts = [name, norm, f"{int(proved.sum())} of {len(images)}"]
    if not proved.any():
        row(*texts, "not available", "", "", "", f"{seconds:.2f}")
        return
    attacked = adversarial_distance(network, images, labels, norm=norm)
    ratios = (found.distance / attacked.distance)[proved]
    assert (ratios <= 1).all()
    low, high = ratios.quantile(torch.tensor([0.1, 0.9])).tolist()
    trials, passes = (getattr(found, what)[proved].float().mean() for what in ("trials", "backward"))
    spread = f"{low:.2f} to {high:.2f}"
    row(*texts, f"{ratios.median():.3f}", spread, f"{trials:.1f}", f"{passes:,.0f}", f"{seconds:.2f}")


def cost():
    """Seconds and memory of the adversarially trained CNN, by batch size; each in a process of its own."""
    header("norm", "batch", "s an image", "memory above the model's, MB")
    for norm in ("linf", "l2"):
        for batch_size in (1, 4, 16, 32):
            command = [sys.executable, __file__, "one-cost", "--norm", norm, "--batch-size", str(batch_size)]
            print(subprocess.run(command, check=True, capture_output=True, text=True).stdout, end="", flush=True)


def one_cost(norm, batch_size):
    network, images, labels = subjects.subject("cnn_a_adv", 32)
    certified_distance(network, images[:1], labels[:1], norm=norm, method="interval")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.monotonic()
    certified_distance(network, images, labels, norm=norm, batch_size=batch_size)
    seconds = time.monotonic() - begun
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    row(norm, batch_size, f"{seconds / len(images):.2f}", f"{memory:.0f}")


def published():
    """Verdicts of VNN-COMP 2021 on two networks: proved again, contradicted."""
    header("network", "verified", "proved again", "falsified", "contradicted", "s an image")
    for layers in (2, 4):
        rows, split = verdicts(layers)
        begun = time.monotonic()
        found = certified_distance(mnist(layers), split.images, split.labels, norm="linf")
        seconds = time.monotonic() - begun
        attacked = adversarial_distance(mnist(layers), split.images, split.labels, norm="linf")
        exact = exact_distance(
            mnist(layers), split.images, split.labels,
            adversarial=attacked.adversarial, certified=found.distance, time_limit=5,
        )  # fmt: skip
        again = wrong = 0
        for one, low, least, most, high in zip(
            rows, found.distance.tolist(), exact.lower.tolist(), exact.upper.tolist(), attacked.distance.tolist(),
            strict=True,
        ):  # fmt: skip
            if one["verdict"] == "verified":
                again += max(low, least) >= float(one["epsilon"])
                wrong += min(high, most) <= float(one["epsilon"])
            else:
                wrong += max(low, least) > float(one["counterexample_linf"])
        verified = sum(one["verdict"] == "verified" for one in rows)
        crown = sum(
            low >= float(one["epsilon"])
            for one, low in zip(rows, found.distance.tolist(), strict=True)
            if one["verdict"] == "verified"
        )
        text = f"{again} ({crown} without the solver)"
        row(f"256x{layers}", verified, text, len(rows) - verified, wrong, f"{seconds / len(rows):.2f}")


def exact():
    """Fully connected networks for digits: certified and adversarial against the exact distance, 50 images."""
    header(
        "network",
        "solved",
        "median distance",
        "median certified / exact",
        "mean adversarial / exact",
        "largest",
        "within 1.001",
        "thorough: within 1.001",
        "s, median",
        "s, largest",
    )
    mlp, digits = bundled("mlp")
    exact_row("mlp (64-32-10, corruptions)", mlp, digits)
    for name, hidden, recipe in (
        ("64-32-10, standard", (32,), Recipe(shift=0, epochs=40, learning_rate=0.03)),
        ("64-32-10, shifts, 300 epochs", (32,), Recipe()),
        ("64-24-24-10, corruptions", (24, 24), RECIPES["digits", "mlp"]),
    ):  # fmt: skip
        network = FullyConnected(64, hidden, 10, 0.5, 0.25)
        split = digits_of("training")
        train(network, split.images, split.labels, recipe, progress=False)
        exact_row(name, network.requires_grad_(False), digits)


def exact_row(name, network, digits):
    images, labels = digits.images[:50], digits.labels[:50]
    attacked = adversarial_distance(network, images, labels, norm="linf")
    certified = certified_distance(network, images, labels, norm="linf")
    found = exact_distance(
        network, images, labels, adversarial=attacked.adversarial, certified=certified.distance, time_limit=30
    )
    solved, right = found.status == Status.EXACT, found.status != Status.MISCLASSIFIED
    ratios = (attacked.distance / found.distance)[solved]
    thorough = adversarial_distance(network, images, labels, norm="linf", effort="thorough")
    thorough_ratios = (thorough.distance / found.distance)[solved]
    row(
        name,
        f"{int(solved.sum())} of {int(right.sum())}",
        f"{found.distance[solved].median():.4f}",
        f"{(certified.distance / found.distance)[solved].median():.3f}",
        f"{ratios.mean():.4f}",
        f"{ratios.max():.4f}",
        f"{(ratios <= 1.001).float().mean():.1%}",
        f"{(thorough_ratios <= 1.001).float().mean():.1%}",
        f"{found.seconds[right].median():.2f}",
        f"{found.seconds[right].max():.1f}",
    )


PARTS = {"soundness": soundness, "tightness": tightness, "cost": cost, "verdicts": published, "exact": exact}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=[*PARTS, "one-cost"])
    parser.add_argument("--norm", default="linf")
    parser.add_argument("--batch-size", type=int, default=16)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.part == "one-cost":
        one_cost(options.norm, options.batch_size)
    else:
        PARTS[options.part]()


if __name__ == "__main__":
    main()
