"""Adversarial distances side by side with other libraries: `python benchmarks/adversarial_distance.py --help`.

For every image, the smallest verified distance that any attack of the peers found within 1,000 forward and 1,000
backward passes is "best of peers". adv-lib is not one of these: there is a row against all of them. Passes are exact.

peers.npz keeps what each attack found for each image, so a comparison takes minutes and needs none of them. An attack
that is not in it runs (see `peers.py` for what to install), and is added: that takes hours for all. Remove the file to
run everything again.
"""

import argparse
import functools
import time
from pathlib import Path

import numpy as np
import torch
from peers import PEERS, run_peer
from subjects import CIFAR10, DIGITS, subject

from metrics import adversarial_distance
from metrics.norms import NORMS
from metrics.passes import margin

EFFORTS = ("quick", "default", "thorough")

KEPT = Path(__file__).with_name("peers.npz")
"""For each MODEL/NORM/ATTACK, an array of shape (3, images): distance, forward and backward passes."""


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(CIFAR10 + DIGITS))
    parser.add_argument("--norms", default=",".join(NORMS))
    parser.add_argument(
        "--images", type=int, default=64, help="of those that the model classifies correctly, the first"
    )
    parser.add_argument("--peers", action="store_true", help="a row for each attack of the peers as well")
    return parser.parse_args()


def main():
    options = parse()
    torch.set_num_threads(1)
    print(
        "| model | norm | attack | forward | backward | median | median / best | within 1.01 | within 1.05 "
        "| sum / best | time per pass / bare |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for name in options.models.split(","):
        network, images, labels = subject(name, options.images)
        for norm in options.norms.split(","):
            peers = {
                peer: peer_distances(f"{name}/{norm}/{peer}", attack, network, images, labels, norm)
                for peer, attack in PEERS[norm].items()
            }
            named = [found["distance"] for peer, found in peers.items() if not peer.startswith("adv-lib")]
            best = torch.stack(named).amin(dim=0)
            best_with_adv_lib = torch.stack([found["distance"] for found in peers.values()]).amin(dim=0)
            for effort in EFFORTS:
                found, ratio = timed(network, images, labels, norm=norm, effort=effort)
                row(name, norm, f"**ours, {effort}**", found, best, f"{ratio:.2f}")
                if effort == "thorough":
                    row(name, norm, "the same, against adv-lib as well", found, best_with_adv_lib)
            found, _ = timed(network, images, labels, norm=norm, effort="thorough", method="iterated-pgd")
            row(name, norm, "iterated PGD, as in the study", found, best)
            if options.peers:
                for peer, found in peers.items():
                    row(name, norm, peer, found, best)


def timed(network, images, labels, **parameters):
    """Our distances, and the time of a pass as a ratio to a bare one, before and after."""
    before = bare_pass(network, images, labels)
    start = time.perf_counter()
    found = adversarial_distance(network, images, labels, batch_size=len(images), **parameters)
    took = time.perf_counter() - start
    bare = (before + bare_pass(network, images, labels)) / 2
    return vars(found), took / float(found.forward.sum() + found.backward.sum()) / bare


def bare_pass(network, images, labels, seconds=1.0):
    """Seconds for one image through half a forward and backward pass, the parameters frozen."""
    network.requires_grad_(False)
    start, calls = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        inputs = images.clone().requires_grad_(True)
        torch.autograd.grad(margin(network(inputs), labels).sum(), inputs)
        calls += 1
    return (time.perf_counter() - start) / calls / 2 / len(images)


def peer_distances(key, attack, network, images, labels, norm):
    """What an attack found for these images: kept, or found now."""
    table = kept().get(key)
    if table is None or table.shape[1] < len(images):
        recorder = run_peer(attack, network, images, labels, norm)
        table = np.stack([recorder.verified(), recorder.forward_passes, recorder.backward_passes]).astype(np.float32)
        np.savez_compressed(KEPT, **kept() | {key: table})
        kept.cache_clear()
    distance, forward, backward = torch.from_numpy(table[:, : len(images)])
    return {"distance": distance, "forward": forward, "backward": backward}


@functools.cache
def kept():
    """The arrays of peers.npz by their keys."""
    if not KEPT.is_file():
        return {}
    with np.load(KEPT) as file:
        return dict(file)


def row(name, norm, attack, found, best, time_ratio=""):
    distance = found["distance"]
    ratio = distance / best
    print(
        f"| {name} | {norm} | {attack} | {found['forward'].float().mean():.0f} "
        f"| {found['backward'].float().mean():.0f} | {distance.median():.5f} | {distance.median() / best.median():.3f} "
        f"| {(ratio <= 1.01).float().mean():.1%} | {(ratio <= 1.05).float().mean():.1%} "
        f"| {distance.sum() / best.sum():.4f} | {time_ratio} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
