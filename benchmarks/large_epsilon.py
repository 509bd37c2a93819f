"""The attack at a large epsilon, on a network like those for MNIST: `python benchmarks/large_epsilon.py`.

A small convolutional network learns to resist 10 steps of PGD (Madry et al., ICLR 2018) at 0.3 in L-infinity, on the
digits of scikit-learn, enlarged to 28x28 pixels that are as black and white as MNIST's. Training takes two minutes.
"Best" is, for each image, the smallest distance of three searches with the thorough effort and other seeds.
"""

import torch
from sklearn.datasets import load_digits
from tables import header, row
from torch import nn
from torch.nn import functional

from metrics import adversarial_distance

EPSILON, STEPS, EPOCHS, IMAGES = 0.3, 10, 60, 200
EPSILONS = (0.1, 0.2, 0.25, 0.3, 0.35)


def main():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images, labels = enlarged_digits()
    network = trained(images[:1400], labels[:1400])
    images, labels = images[1400:], labels[1400:]
    correct = (network(images).argmax(dim=1) == labels).nonzero().flatten()[:IMAGES]
    images, labels = images[correct], labels[correct]
    best = torch.stack([distances(network, images, labels, "thorough", seed)[0] for seed in (1, 2, 3)]).amin(dim=0)
    missed = (f"missed at {epsilon:g}" for epsilon in EPSILONS)
    header("effort", "seed", "passes", "within 1.01", "mean / best", "largest / best", *missed)
    for effort, seed in (("quick", 11), ("default", 11), ("default", 12), ("thorough", 11)):
        distance, passes = distances(network, images, labels, effort, seed)
        ratio = distance / best
        shares = (f"{(ratio <= 1.01).float().mean():.1%}", f"{ratio.mean():.4f}", f"{ratio.max():.3f}")
        row(effort, seed, passes, *shares, *(int((distance > one).sum() - (best > one).sum()) for one in EPSILONS))
    robust = ", ".join(f"{(best > epsilon).sum()} at {epsilon:g}" for epsilon in EPSILONS)
    print(f"\nOf {len(images)} images, so many are robust to the best attack: {robust}.")


def distances(network, images, labels, effort, seed):
    """Distances, and passes in the mean."""
    seeds = list(range(1000 * seed, 1000 * seed + len(images)))
    found = adversarial_distance(
        network, images, labels, norm="linf", effort=effort, seed=seeds, batch_size=len(images)
    )
    return found.distance, f"{found.forward.float().mean():.0f} + {found.backward.float().mean():.0f}"


def enlarged_digits():
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    images = functional.interpolate(images, size=28, mode="bilinear", align_corners=False)
    images = (3 * (images - 0.5) + 0.5).clamp(0, 1)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return images[order], torch.tensor(digits.target)[order]


def trained(images, labels):
    network = nn.Sequential(
        *(nn.Conv2d(1, 16, 5, 2, 2), nn.ReLU(), nn.Conv2d(16, 32, 5, 2, 2), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(32 * 49, 128), nn.ReLU(), nn.Linear(128, 10)),
    )
    optimiser = torch.optim.Adam(network.parameters(), 1e-3)
    for epoch in range(EPOCHS):
        epsilon = EPSILON * min(1, 2 * (epoch + 1) / EPOCHS)
        for rows in torch.randperm(len(images)).split(50):
            attacked = pgd(network, images[rows], labels[rows], epsilon)
            optimiser.zero_grad()
            functional.cross_entropy(network(attacked), labels[rows]).backward()
            optimiser.step()
    return network.eval().requires_grad_(False)


def pgd(network, images, labels, epsilon):
    points = (images + torch.empty_like(images).uniform_(-epsilon, epsilon)).clamp(0, 1)
    for _ in range(STEPS):
        points.requires_grad_()
        (gradient,) = torch.autograd.grad(functional.cross_entropy(network(points), labels), points)
        points = points.detach() + 2.5 * epsilon / STEPS * gradient.sign()
        points = torch.min(torch.max(points, images - epsilon), images + epsilon).clamp(0, 1)
    return points.detach()


if __name__ == "__main__":
    main()
