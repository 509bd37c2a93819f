"""Adversarial distances side by side with other libraries: `python benchmarks/adversarial_distance.py --help`.

For every image, the smallest verified distance that any attack of the peers found within 1,000 forward and 1,000
backward passes is "best of peers". Passes are exact. Needs the peers (see `peers.py`) and, but for digits, the team's
shared folder beside the checkout.
"""

import argparse
from pathlib import Path

import torch
from peers import PEERS, run_peer
from subjects import CIFAR10, DIGITS, subject

from metrics import Status, adversarial_distance

NORMS = ("linf", "l2", "l1")
EFFORTS = ("quick", "default", "thorough")


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(CIFAR10 + DIGITS))
    parser.add_argument("--norms", default=",".join(NORMS))
    parser.add_argument(
        "--images", type=int, default=64, help="of those that the model classifies correctly, the first"
    )
    parser.add_argument("--keep", type=Path, help="folder for the distances of the peers, so that they run only once")
    parser.add_argument("--peers", action="store_true", help="a row for each attack of the peers as well")
    return parser.parse_args()


def main():
    options = parse()
    torch.set_num_threads(1)
    print("| model | norm | attack | forward | backward | median | within 1.01 | within 1.05 | sum / best of peers |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in options.models.split(","):
        network, images, labels = subject(name, options.images)
        for norm in options.norms.split(","):
            peers = {
                peer: peer_distances(options, name, norm, peer, attack, network, images, labels)
                for peer, attack in PEERS[norm].items()
            }
            named = [found["distance"] for peer, found in peers.items() if not peer.startswith("adv-lib")]
            best = torch.stack(named).amin(dim=0)
            best_with_adv_lib = torch.stack([found["distance"] for found in peers.values()]).amin(dim=0)
            for effort in EFFORTS:
                found = adversarial_distance(network, images, labels, norm=norm, effort=effort, batch_size=len(images))
                assert (found.status == Status.ATTACKED).all(), "an image without an adversarial example"
                row(name, norm, f"**ours, {effort}**", vars(found), best)
                if effort == "thorough":
                    row(name, norm, "the same, against adv-lib as well", vars(found), best_with_adv_lib)
            if options.peers:
                for peer, found in peers.items():
                    row(name, norm, peer, found, best)


def peer_distances(options, name, norm, peer, attack, network, images, labels):
    kept = options.keep and options.keep / f"{name}-{norm}-{peer.replace(' ', '_')}-{len(images)}.pt"
    if kept and kept.is_file():
        return torch.load(kept, weights_only=True)
    recorder = run_peer(attack, network, images, labels, norm)
    found = {
        "distance": recorder.verified(),
        "forward": recorder.forward_passes,
        "backward": recorder.backward_passes,
    }
    if kept:
        kept.parent.mkdir(parents=True, exist_ok=True)
        torch.save(found, kept)
    return found


def row(name, norm, attack, found, best):
    distance = found["distance"]
    ratio = distance / best
    print(
        f"| {name} | {norm} | {attack} "
        f"| {found['forward'].float().mean():.0f} | {found['backward'].float().mean():.0f} | {distance.median():.5f} "
        f"| {(ratio <= 1.01).float().mean():.1%} | {(ratio <= 1.05).float().mean():.1%} "
        f"| {distance.sum() / best.sum():.4f} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
