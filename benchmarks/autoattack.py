"""Robust accuracy at several epsilons: one search for the minimal distance beside AutoAttack.

    python benchmarks/autoattack.py measure --models cnn_a_adv --norms linf --epsilons 2/255,4/255,8/255
    python benchmarks/autoattack.py compare

`measure` runs AutoAttack (Croce and Hein 2020), version "standard", of pyautoattack, and adds a row for each epsilon to
autoattack.csv: what it left robust, and its passes. That takes hours. `compare` runs this suite's search on
the same images and prints a table; it takes minutes.
"""

import argparse
import csv
from fractions import Fraction
from pathlib import Path

import torch
from counting import Counting
from subjects import subject
from tables import header, row

from metrics import adversarial_distance
from metrics.passes import margin

KEPT = Path(__file__).with_name("autoattack.csv")
COLUMNS = ("model", "norm", "epsilon", "robust", "forward", "backward")
"""`robust` has a character for each image, 1 or 0. Passes are of all images together."""

NAMES = {"linf": "Linf", "l2": "L2", "l1": "L1"}


def main():
    torch.set_num_threads(1)
    parts = {"measure": measure, "compare": compare}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=parts)
    parser.add_argument("--models", default="cnn_a_adv", help="for measure")
    parser.add_argument("--norms", default="linf", help="for measure")
    parser.add_argument("--epsilons", default="2/255,4/255,8/255", help="for measure; those of one norm")
    parser.add_argument("--images", type=int, default=200, help="for measure: the first that are classified correctly")
    parser.add_argument("--efforts", default="default,thorough", help="for compare")
    options = parser.parse_args()
    parts[options.part](options)


def measure(options):
    """Add rows for what is not there yet."""
    done = {(one["model"], one["norm"], one["epsilon"]) for one in kept()}
    for name in options.models.split(","):
        network, images, labels = subject(name, options.images)
        for norm in options.norms.split(","):
            for epsilon in options.epsilons.split(","):
                if (name, norm, epsilon) in done:
                    continue
                found = [name, norm, epsilon, *autoattack(network, images, labels, norm, epsilon)]
                is_new = not KEPT.exists()
                with KEPT.open("a", newline="") as file:
                    writer = csv.writer(file, lineterminator="\n")
                    writer.writerows([COLUMNS, found] if is_new else [found])
                print(*found, flush=True)


def autoattack(network, images, labels, norm, epsilon):
    """Which images AutoAttack leaves robust, and its passes."""
    from pyautoattack import AutoAttack  # noqa: PLC0415  # a peer is imported where it is used

    counting = Counting(network)
    attack = AutoAttack(counting, norm=NAMES[norm], eps=float(Fraction(epsilon)), seed=0, version="standard")
    adversarial, _ = attack.run_standard_evaluation(images, labels)
    passes = counting.forward_passes, counting.backward_passes
    with torch.no_grad():
        robust = margin(network(adversarial), labels) > 0
    return "".join(str(int(one)) for one in robust), *passes


def compare(options):
    """A row for each model, norm and epsilon, and a search of each effort for each model and norm."""
    header("model", "norm", "effort", "epsilon", "images", "robust, AutoAttack", "robust, ours",
           "only AutoAttack breaks", "only ours breaks", "passes an image, AutoAttack", "passes an image, ours",
           "AutoAttack / ours")  # fmt: skip
    rows = kept()
    for name, norm in dict.fromkeys((one["model"], one["norm"]) for one in rows):
        here = [one for one in rows if (one["model"], one["norm"]) == (name, norm)]
        count = len(here[0]["robust"])
        network, images, labels = subject(name, count)
        for effort in options.efforts.split(","):
            found = adversarial_distance(
                network, images, labels, norm=norm, effort=effort, seed=list(range(count)), batch_size=count
            )
            ours = int(found.forward.sum()), int(found.backward.sum())
            for one in here:
                theirs = int(one["forward"]), int(one["backward"])
                left = torch.tensor([character == "1" for character in one["robust"]])
                robust = found.distance > float(Fraction(one["epsilon"]))
                row(
                    name,
                    norm,
                    effort,
                    one["epsilon"],
                    count,
                    int(left.sum()),
                    int(robust.sum()),
                    int((robust & ~left).sum()),
                    int((left & ~robust).sum()),
                    *(f"{forward / count:,.0f} + {backward / count:,.0f}" for forward, backward in (theirs, ours)),
                    f"{sum(theirs) / sum(ours):.1f}",
                )


def kept():
    """The rows of autoattack.csv."""
    if not KEPT.exists():
        return []
    with KEPT.open(newline="") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    main()
