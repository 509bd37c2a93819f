"""RobustBench 1.1.1: its own loader, on checkpoints written where it keeps them, in the formats that it has."""

import importlib
import sys

import numpy as np
import pytest
import torch
from torch import nn

from robustness_tests.subjects import robustbench_zoo
from robustness_tests.subjects.checkpoints import weights_only
from robustness_tests.subjects.robustbench_zoo import robustbench_module
from robustness_tests.subjects.wide_resnet import WideResNet


def randomised(network, seed=0):
    """The network with random weights and statistics: a layer in the wrong place would show."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            low = 0.5 if "var" in name or ("bn" in name and "weight" in name) else -0.1
            tensor.copy_(low + torch.rand(tensor.shape, generator=generator) * (0.2 if low < 0 else 0.5))
    return network.eval()


def keep(folder, location, content):
    dataset, threat, name = location.split("/")
    path = folder / "models" / dataset / threat / f"{name}.pt"
    path.parent.mkdir(parents=True)
    torch.save(content, path)


AUGMIX = "cifar10/corruptions/Hendrycks2020AugMix_WRN"


def test_corruption_wide_resnet_is_the_plain_one(tmp_path):
    """The format of the AugMix authors: a training checkpoint, trained in parallel, without the normalisation."""
    plain = randomised(WideResNet(depth=40, width=2, classes=10, mean=[0.5] * 3, std=[0.5] * 3))
    state = {f"module.{name}": tensor for name, tensor in plain.state_dict().items()}
    keep(
        tmp_path, AUGMIX, {"epoch": 199, "state_dict": state, "best_acc": np.float64(0.95), "optimizer": {"lr": [0.1]}}
    )
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    loaded = robustbench_zoo.load(AUGMIX, tmp_path)
    with torch.no_grad():
        assert torch.allclose(loaded(images), plain(images), atol=1e-5)
    assert not loaded.training


@pytest.mark.parametrize(
    ("location", "architecture", "wrapped"),
    [
        ("cifar10/corruptions/Modas2021PRIMEResNet18", "resnet.ResNet18", False),
        ("cifar10/Linf/Sehwag2021Proxy_R18", "resnet.ResNet18", True),
    ],
)
def test_resnet18_is_the_plain_one(tmp_path, location, architecture, wrapped):
    module, _, name = architecture.partition(".")
    robustbench_module("utils")
    plain = randomised(getattr(importlib.import_module(f"robustbench.model_zoo.architectures.{module}"), name)())
    zoo, enums = robustbench_module("model_zoo"), robustbench_module("model_zoo.enums")
    dataset, threat, model = location.split("/")
    class_of_zoo = zoo.model_dicts[enums.BenchmarkDataset(dataset)][enums.ThreatModel(threat)][model]["model"]()
    constants = {name: tensor for name, tensor in class_of_zoo.state_dict().items() if name not in plain.state_dict()}
    state = {**plain.state_dict(), **constants}
    keep(tmp_path, location, {"state_dict": state} if wrapped else state)
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    mean, std = (
        next((tensor for name, tensor in constants.items() if name in names), default)
        for names, default in ((("mu", "mean"), torch.tensor(0.0)), (("sigma", "std"), torch.tensor(1.0)))
    )
    loaded = robustbench_zoo.load(location, tmp_path)
    with torch.no_grad():
        expected = plain((images - mean) / std)
        assert torch.allclose(loaded(images), expected, atol=1e-5)
        assert torch.equal(loaded(images).argmax(dim=1), expected.argmax(dim=1))


def test_names_of_the_study_exist(tmp_path):
    for location in (AUGMIX, "cifar10/Linf/Standard"):
        robustbench_zoo.check_name(*location.split("/"))
    for location, hint in (
        ("cifar10/corruptions/Hendrycks2020AugMix", "did you mean"),
        ("cifar100/L2/Standard", "expected one of the 0 models"),
    ):
        with pytest.raises(ValueError, match=hint):
            robustbench_zoo.check_name(*location.split("/"))


def test_another_robustbench_is_told(monkeypatch):
    utils = robustbench_module("utils")
    monkeypatch.delattr(utils, "_safe_load_state_dict")
    with pytest.raises(ValueError, match=r"got robustbench without utils\._safe_load_state_dict, expected"):
        robustbench_module("utils")
    monkeypatch.setitem(sys.modules, "robustbench.utils", None)
    with pytest.raises(ValueError, match="got robustbench that cannot be imported"):
        robustbench_module("utils")


def test_nothing_is_unpickled_whoever_asks(tmp_path):
    """timm and torch.hub ask for `weights_only=False`."""
    torch.save(nn.Linear(2, 2), tmp_path / "module.pt")
    torch.save({"weight": torch.ones(2), "accuracy": np.float64(0.5)}, tmp_path / "weights.pt")
    with weights_only():
        assert torch.load(tmp_path / "weights.pt", weights_only=False)["accuracy"] == 0.5
        with pytest.raises(Exception, match="Weights only load failed"):
            torch.load(tmp_path / "module.pt", weights_only=False)
    assert isinstance(torch.load(tmp_path / "module.pt", weights_only=False), nn.Linear), "only there"
