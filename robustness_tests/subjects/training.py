"""How the bundled models were trained: `python -m robustness_tests.subjects.training`.

On each dataset, `standard` is trained on shifted images (for CIFAR-10, also flipped). `robust` is trained on the same
images, each with one random corruption: a norm drawn from Linf, L2, L1 and L0, a strength uniform in [0, largest], and
a point uniform in that ball. On digits, the weight decay of `robust` is four times as large. All other settings are the
same. `mlp`, a small fully connected network for digits, is trained with the same corruptions on images that are not
shifted, for fewer epochs and with a smaller learning rate. No adversarial examples are used.

The training files of CIFAR-10 are read from `--data-dir`, or downloaded to it.
"""

import argparse
import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from robustness_tests.subjects.catalog import MODELS, WEIGHTS, closest
from robustness_tests.subjects.corruptions import corrupt
from robustness_tests.subjects.datasets import cifar10, digits
from robustness_tests.subjects.images import Images
from robustness_tests.subjects.models import build_network, clean_accuracy


@dataclass(frozen=True)
class Recipe:
    """Everything that the weights depend on, besides the code and the version of torch.

    Attributes:
        corruptions: largest strength for each norm, see `corrupt`; empty for standard training.
        shift: largest shift of an image in pixels, in both directions.
        flipped: whether half of the images are mirrored.
        epochs: number of passes over the training split.
        batch_size: number of images per step.
        learning_rate: largest learning rate of a one-cycle schedule (Smith & Topin 2017).
        momentum: Nesterov momentum.
        weight_decay: weight decay of all parameters.
        seed: seed for initial weights, order of images, shifts, flips and corruptions.
    """

    corruptions: dict[str, float] = field(default_factory=dict)
    shift: int = 1
    flipped: bool = False
    epochs: int = 300
    batch_size: int = 128
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    seed: int = 0


CIFAR10 = Recipe(shift=4, flipped=True, epochs=8)

RECIPES = {
    ("digits", "standard"): Recipe(),
    ("digits", "robust"): Recipe(corruptions={"linf": 0.5, "l2": 3.2, "l1": 16.0, "l0": 0.3}, weight_decay=2e-3),
    ("digits", "mlp"): Recipe(
        corruptions={"linf": 0.5, "l2": 3.2, "l1": 16.0, "l0": 0.3},
        shift=0,
        epochs=40,
        learning_rate=0.03,
        weight_decay=2e-3,
    ),
    ("cifar10", "standard"): CIFAR10,
    ("cifar10", "robust"): replace(CIFAR10, corruptions={"linf": 0.12, "l2": 4.0, "l1": 150.0, "l0": 0.05}),
}
"""Recipes by dataset and model name. Those of `cifar10` are for the bundled models of `cifar10-sample`."""


def initialise(network: nn.Module, generator: torch.Generator) -> None:
    """Initialise all weights (He et al. 2015) from this generator only."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
        if isinstance(module, nn.Linear):
            nn.init.kaiming_uniform_(module.weight, a=math.sqrt(5), generator=generator)
            nn.init.zeros_(module.bias)


def shift(images: Tensor, pixels: int, generator: torch.Generator) -> Tensor:
    """Shift each image by up to `pixels` pixels in both directions, and fill the edge with 0."""
    padded = functional.pad(images, (pixels, pixels, pixels, pixels))
    height, width = images.shape[2:]
    offsets = torch.randint(0, 2 * pixels + 1, (len(images), 2), generator=generator).tolist()
    return torch.stack([image[:, y : y + height, x : x + width] for image, (y, x) in zip(padded, offsets, strict=True)])


def flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror half of the images, drawn at random."""
    chosen = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(chosen.view(-1, 1, 1, 1), images.flip(3), images)


def augmented(images: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """Shift, flip and corrupt the images of a training step, as the recipe says."""
    batch = shift(images, recipe.shift, generator) if recipe.shift else images
    if recipe.flipped:
        batch = flip(batch, generator)
    return corrupt(batch, recipe.corruptions, generator) if recipe.corruptions else batch


def train(network: nn.Module, images: Tensor, labels: Tensor, recipe: Recipe, *, progress: bool = True) -> None:
    """Train a network in place on the CPU; the same recipe gives identical weights on the same machine."""
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
            loss = functional.cross_entropy(network(augmented(images[rows], recipe, generator)), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    network.eval()


def splits(dataset: str, data_dir: Path) -> tuple[Images, Images]:
    """Images to train with, and to test with."""
    if dataset == "digits":
        return digits("training"), digits("test")
    return cifar10(data_dir, train=True), cifar10(data_dir)


def main(arguments: list[str] | None = None) -> None:
    """Train the bundled models and write their weights."""
    parser = argparse.ArgumentParser(prog="python -m robustness_tests.subjects.training", description=main.__doc__)
    names = sorted({name for _, name in RECIPES})
    parser.add_argument("--dataset", choices=sorted({of for of, _ in RECIPES}), default="digits")
    parser.add_argument("--model", choices=names, action="append", help="model to train (default: all of the dataset)")
    parser.add_argument("--output", type=Path, default=WEIGHTS, help="folder to write to (default: the package's own)")
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="folder of CIFAR-10 (default: data)")
    parser.add_argument("--epochs", type=int, help="number of epochs, for a trial run (default: the recipe's)")
    options = parser.parse_args(arguments)
    known = [name for of, name in RECIPES if of == options.dataset]
    for name in options.model or []:
        if name not in known:
            parser.error(f"--model: got {name!r}, {closest(name, known)} for --dataset {options.dataset}")
    options.output.mkdir(parents=True, exist_ok=True)
    # One thread: sums of gradients would come out in another order with another number of them.
    torch.set_num_threads(1)
    try:
        training, test = splits(options.dataset, options.data_dir)
    except ValueError as error:
        parser.error(str(error))
    for name in options.model or known:
        card, recipe = MODELS[BUNDLED_AS[options.dataset], name], RECIPES[options.dataset, name]
        if options.epochs is not None:
            recipe = replace(recipe, epochs=options.epochs)
        network = build_network(card)
        train(network, training.images[:], training.labels, recipe)
        path = options.output / card.weights.name
        # A single key: the order of several keys is not fixed, and would change the digest of the file.
        save_file(network.state_dict(), path, metadata={"made with": f"{recipe!r}, torch {torch.__version__}"})
        path.chmod(0o644)
        accuracy = clean_accuracy(network, test, torch.device("cpu"))
        print(f"{name}: clean accuracy {accuracy:.2%} on the test split, written to {path}")


BUNDLED_AS = {"digits": "digits", "cifar10": "cifar10-sample"}
"""The bundled dataset that the models of a dataset are tested on."""


if __name__ == "__main__":
    main()
