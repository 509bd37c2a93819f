"""How the bundled models were trained: `python -m robustness_tests.subjects.training`.

`standard` sees digits that are shifted by up to a pixel. `robust` sees the same digits, each with one random
corruption: a norm of Linf, L2, L1 and L0 drawn for the image, a strength uniform in [0, largest], a point uniform in
that ball. Its weight decay is four times as large; all else is alike. `mlp`, a small fully connected network, sees the
same corruptions on digits that are not shifted, for fewer epochs. No adversarial example is used.
"""

import argparse
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from robustness_tests.subjects.catalog import MODELS, WEIGHTS
from robustness_tests.subjects.corruptions import corrupt
from robustness_tests.subjects.datasets import digits
from robustness_tests.subjects.models import build_network, clean_accuracy


@dataclass(frozen=True)
class Recipe:
    """All that the weights depend on, beside the code and the version of torch.

    Attributes:
        corruptions: largest strength for each norm, see `corrupt`; none for standard training.
        shifted: whether digits are shifted by up to a pixel.
        epochs: passes over the training split.
        batch_size: images in a step.
        learning_rate: the largest, of a one-cycle schedule (Smith & Topin 2017).
        momentum: of Nesterov's method.
        weight_decay: on all parameters.
        seed: of the initial weights, the order of images, shifts and corruptions.
    """

    corruptions: dict[str, float] = field(default_factory=dict)
    shifted: bool = True
    epochs: int = 300
    batch_size: int = 128
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    seed: int = 0


RECIPES = {
    "standard": Recipe(),
    "robust": Recipe(corruptions={"linf": 0.5, "l2": 3.2, "l1": 16.0, "l0": 0.3}, weight_decay=2e-3),
    "mlp": Recipe(
        corruptions={"linf": 0.5, "l2": 3.2, "l1": 16.0, "l0": 0.3},
        shifted=False,
        epochs=40,
        learning_rate=0.03,
        weight_decay=2e-3,
    ),
}


def initialise(network: nn.Module, generator: torch.Generator) -> None:
    """Draw all weights anew (He et al. 2015), from this generator alone."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
        if isinstance(module, nn.Linear):
            nn.init.kaiming_uniform_(module.weight, a=math.sqrt(5), generator=generator)
            nn.init.zeros_(module.bias)


def shift(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift each image by -1, 0 or 1 pixels in both directions; the edge is filled with 0."""
    padded = functional.pad(images, (1, 1, 1, 1))
    height, width = images.shape[2:]
    offsets = torch.randint(0, 3, (len(images), 2), generator=generator).tolist()
    return torch.stack([image[:, y : y + height, x : x + width] for image, (y, x) in zip(padded, offsets, strict=True)])


def train(network: nn.Module, images: Tensor, labels: Tensor, recipe: Recipe, *, progress: bool = True) -> None:
    """Train a network in place, on the CPU; the same recipe gives the same bits on the same machine."""
    generator = torch.Generator().manual_seed(recipe.seed)
    initialise(network, generator)
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=True,
        weight_decay=recipe.weight_decay,
    )
    steps = recipe.epochs * math.ceil(len(images) / recipe.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=steps, pct_start=0.2)
    network.train()
    for _ in tqdm(range(recipe.epochs), unit="epoch", disable=None if progress else True):
        for rows in torch.randperm(len(images), generator=generator).split(recipe.batch_size):
            batch = shift(images[rows], generator) if recipe.shifted else images[rows]
            if recipe.corruptions:
                batch = corrupt(batch, recipe.corruptions, generator)
            loss = functional.cross_entropy(network(batch), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    network.eval()


def main(arguments: list[str] | None = None) -> None:
    """Train the bundled models and write their weights."""
    parser = argparse.ArgumentParser(prog="python -m robustness_tests.subjects.training", description=main.__doc__)
    parser.add_argument("--model", choices=sorted(RECIPES), action="append", help="which (default: all)")
    parser.add_argument("--output", type=Path, default=WEIGHTS, help="folder to write to (default: the package's own)")
    parser.add_argument("--epochs", type=int, help="fewer, to try things out (default: the recipe's)")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    # One thread: sums of gradients would come out in another order with another number of them.
    torch.set_num_threads(1)
    for name in options.model or sorted(RECIPES):
        card, recipe = MODELS[name], RECIPES[name]
        if options.epochs is not None:
            recipe = Recipe(**{**asdict(recipe), "epochs": options.epochs})
        split = digits("training")
        network = build_network(card)
        train(network, split.images, split.labels, recipe)
        path = options.output / card.weights.name
        # One key: the order of several is not fixed, and the digest of the file is checked.
        save_file(network.state_dict(), path, metadata={"made with": f"{recipe!r}, torch {torch.__version__}"})
        path.chmod(0o644)
        accuracy = clean_accuracy(network, digits("test"), torch.device("cpu"))
        print(f"{name}: clean accuracy {accuracy:.2%} on the test split, written to {path}")


if __name__ == "__main__":
    main()
