"""Models and datasets: architectures against published weights, loading that lets nothing broken through."""

import dataclasses
import hashlib
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from meta_tests.conftest import shared_file
from robustness_tests.subjects import catalog, training
from robustness_tests.subjects.catalog import DATASETS, MODELS
from robustness_tests.subjects.corruptions import corrupt
from robustness_tests.subjects.datasets import bundled_images, digits
from robustness_tests.subjects.images import images_and_labels
from robustness_tests.subjects.models import build_network, bundled, check_bundled, clean_accuracy, model_digest
from robustness_tests.subjects.sources import Source
from robustness_tests.subjects.subject_check import WrongSubjectError, check_subjects
from robustness_tests.subjects.wide_resnet import WideResNet

CPU = torch.device("cpu")
ROBUST = Source("bundled", "robust", "robust", "digits")


STATED = {
    "resnet20": (0.910, 0.915),
    "cnn_a_standard": (0.734, 0.744),
    "cnn_a_adv": (0.650, 0.664),
    "standard": (0.870, 0.863),
    "robust": (0.854, 0.839),
}
"""Clean accuracy on the first 500 test images of CIFAR-10, and what is stated for the first 1,000."""


@pytest.mark.parametrize("name", STATED)
def test_networks_for_cifar10_are_as_accurate_as_stated(name, cifar10, cifar10_network):
    """Weights load strictly, and every layer of the architectures is in its place."""
    assert clean_accuracy(cifar10_network(name), cifar10, CPU) == pytest.approx(STATED[name][0], abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", STATED)
def test_networks_for_cifar10_are_those_that_others_have_measured(name, cifar10_network):
    """With 500 more images, which are not in the checkout."""
    raw = np.load(shared_file("cifar10/test_0000_0999.npz"))
    thousand = images_and_labels(raw["images"], raw["labels"])
    assert torch.equal(thousand.images[:500], bundled_images("cifar10-sample").images)
    assert clean_accuracy(cifar10_network(name), thousand, CPU) == pytest.approx(STATED[name][1], abs=0.0011)


@pytest.mark.parametrize(
    ("depth", "width", "parameters"), [(28, 10, 36_479_194), (40, 4, 8_949_210), (16, 8, 10_961_370)]
)
def test_number_of_parameters_is_the_published_one(depth, width, parameters):
    """Table 4 of the paper gives 36.5, 8.9 and 11.0 million."""
    with torch.device("meta"):
        network = WideResNet(depth=depth, width=width, classes=10, mean=[0.5] * 3, std=[0.25] * 3)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


@pytest.mark.parametrize("depth", [4, 11, 27])
def test_impossible_depth_is_refused(depth):
    with pytest.raises(ValueError, match=f"got depth={depth}, expected 6 n"):
        WideResNet(depth=depth, width=1, classes=10, mean=[0.5] * 3, std=[0.25] * 3)


def test_digits_are_split_once_and_for_all():
    test, rest = digits("test"), digits("training")
    assert len(test.labels) == DATASETS["digits"].test_images == 360
    assert len(rest.labels) == 1437
    assert test.labels[:8].tolist() == [0, 5, 0, 5, 0, 5, 0, 5]
    assert 0 <= float(test.images.min()) < float(test.images.max()) <= 1
    shared = {image.numpy().tobytes() for image in test.images} & {image.numpy().tobytes() for image in rest.images}
    assert not shared, "an image is in both splits"


@pytest.mark.parametrize(
    ("dataset", "name", "accuracy"),
    [
        ("digits", "standard", 0.9972),
        ("digits", "robust", 0.9944),
        ("digits", "mlp", 0.9694),
        ("cifar10-sample", "standard", 0.870),
        ("cifar10-sample", "robust", 0.854),
    ],
)
def test_bundled_models_are_small_and_as_accurate_as_stated(dataset, name, accuracy):
    card = MODELS[dataset, name]
    images = bundled_images(dataset)
    network = bundled(card)
    check_bundled(card, network, images, CPU)
    assert card.weights.stat().st_size < 800_000
    assert clean_accuracy(network, images, CPU) == pytest.approx(accuracy, abs=0.0006)
    # Where an effort looks at the first images only, too.
    check_bundled(card, network, bundled_images(dataset, 100), CPU)
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_sample_of_cifar10_is_what_its_card_says(cifar10):
    card = DATASETS["cifar10-sample"]
    assert (card.test_images, card.values) == (len(cifar10.labels), cifar10.images[0].numel())
    assert [card.class_names[label] for label in cifar10.labels[:4]] == ["cat", "ship", "ship", "airplane"]
    # The pixel in the upper left corner of the first image.
    assert (cifar10.images[0, :, 0, 0] * 255).tolist() == pytest.approx([158, 112, 49])


@pytest.mark.parametrize(("content", "message"), [(b"", "with digest"), (None, "got no file cifar10-sample.npz")])
def test_changed_images_are_refused(tmp_path, monkeypatch, content, message):
    monkeypatch.setattr(catalog, "DATA", tmp_path)
    if content is not None:
        (tmp_path / "cifar10-sample.npz").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        bundled_images("cifar10-sample")
    # And before a run begins, as what is wrong with the option.
    sources = {"model": Source("bundled", "robust", "robust", "cifar10-sample")}
    dataset = Source("bundled", "cifar10-sample", "cifar10-sample")
    with pytest.raises(WrongSubjectError, match=message) as caught:
        check_subjects(sources, dataset, images=5, device="cpu", data_dir=tmp_path)
    assert caught.value.option == "dataset"


@pytest.fixture
def weights_in(tmp_path, monkeypatch):
    """The bundled weights in a folder that a test may spoil."""
    for file in catalog.WEIGHTS.glob("*.safetensors"):
        shutil.copy(file, tmp_path)
    monkeypatch.setattr(catalog, "WEIGHTS", tmp_path)
    return tmp_path


def test_changed_weights_are_refused(weights_in):
    card = MODELS["digits", "robust"]
    state = load_file(card.weights)
    state["fc.bias"][0] += 1e-6
    save_file(state, card.weights)
    with pytest.raises(ValueError, match=r"got file digits-robust.safetensors of model 'robust' with digest"):
        bundled(card)


def test_missing_weights_are_refused(weights_in):
    MODELS["digits", "robust"].weights.unlink()
    with pytest.raises(ValueError, match="got no file digits-robust"):
        MODELS["digits", "robust"].check_weights()


def with_weights(card, state):
    """The card of a model whose weights were exchanged, digest and all."""
    save_file(state, card.weights)
    return dataclasses.replace(card, sha256=hashlib.sha256(card.weights.read_bytes()).hexdigest())


def check(card):
    """Load a bundled model as a run does."""
    check_bundled(card, bundled(card), digits("test"), CPU)


def test_loading_is_strict(weights_in):
    state = load_file(MODELS["digits", "robust"].weights)
    del state["block2.layer.0.bn1.running_mean"]
    with pytest.raises(ValueError, match=r"do not fit the architecture: .*block2.layer.0.bn1.running_mean"):
        check(with_weights(MODELS["digits", "robust"], state))


def test_broken_model_does_not_get_through(weights_in):
    """As in the study: weights that load and hardly classify."""
    state = load_file(MODELS["digits", "robust"].weights)
    state["fc.weight"] = state["fc.weight"].roll(1, dims=0)
    with pytest.raises(ValueError, match=r"got clean accuracy .* expected 98% or more"):
        check(with_weights(MODELS["digits", "robust"], state))


def test_digest_of_a_model_changes_with_its_weights(weights_in):
    images = digits("test")
    before = model_digest(ROBUST, bundled(MODELS["digits", "robust"]), images, CPU)
    state = load_file(MODELS["digits", "robust"].weights)
    state["fc.bias"][0] += 1e-6
    card = with_weights(MODELS["digits", "robust"], state)
    assert model_digest(ROBUST, bundled(card), images, CPU) != before


def test_training_gives_the_same_bits_again():
    split = digits("training")
    recipe = dataclasses.replace(training.RECIPES["digits", "robust"], epochs=1)
    states = []
    for _ in range(2):
        network = build_network(MODELS["digits", "robust"])
        training.train(network, split.images, split.labels, recipe, progress=False)
        states.append(network.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_recipe_runs_from_the_command_line(tmp_path, capsys):
    training.main(["--model", "standard", "--epochs", "3", "--output", str(tmp_path)])
    assert "standard: clean accuracy" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        training.main(["--model", "mlp", "--dataset", "cifar10", "--output", str(tmp_path)])
    assert "got 'mlp', expected one of 'standard', 'robust' for --dataset cifar10" in " ".join(
        capsys.readouterr().err.split()
    ).replace(";", "")
    state = load_file(tmp_path / "digits-standard.safetensors")
    assert state.keys() == load_file(MODELS["digits", "standard"].weights).keys()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0"])
def test_corruptions_have_their_strength(norm):
    images = torch.full((400, 1, 8, 8), 0.5)
    largest = {"linf": 0.3, "l2": 1.5, "l1": 6.0, "l0": 0.4}[norm]
    change = (corrupt(images, {norm: largest}, torch.Generator().manual_seed(0)) - images).flatten(1)
    order = {"linf": torch.inf, "l2": 2, "l1": 1, "l0": 0}[norm]
    strengths = torch.linalg.vector_norm(change, order, dim=1) / (64 if norm == "l0" else 1)
    # Each image has a strength of its own, uniform in [0, largest].
    assert strengths.unique().numel() > 20
    assert 0.4 < float(strengths.mean()) / largest < 0.6
    assert float(strengths.max()) <= largest * (1.6 if norm == "l0" else 1 + 1e-5)


def test_images_are_shifted_and_mirrored():
    """All of 9 x 9 shifts of up to 4 pixels, and half of the images mirrored."""
    image = torch.zeros(1, 1, 16, 16)
    image[0, 0, 8, 6] = 1.0
    images, generator = image.expand(2000, -1, -1, -1), torch.Generator().manual_seed(0)
    moved = {tuple(one[0].nonzero()[0].tolist()) for one in training.shift(images, 4, generator)}
    assert moved == {(y, x) for y in range(4, 13) for x in range(2, 11)}
    mirrored = training.flip(images, generator)[:, 0, 8, 9].mean()
    assert float(mirrored) == pytest.approx(0.5, abs=0.04)
    recipe = training.RECIPES["cifar10", "robust"]
    assert training.augmented(images[:20], recipe, generator).shape == (20, 1, 16, 16)


def test_every_norm_is_drawn_for_some_images():
    images = torch.full((200, 1, 8, 8), 0.5)
    corrupted = corrupt(images, {"linf": 0.3, "l0": 0.4}, torch.Generator().manual_seed(0))
    dense = ((corrupted != images).flatten(1).float().mean(dim=1) > 0.9).float().mean()
    assert 0.35 < float(dense) < 0.65
