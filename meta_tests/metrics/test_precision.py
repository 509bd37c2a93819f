"""Whatever the process allows its float32 arithmetic, metrics compute in full precision and restore the settings."""

import subprocess
import sys

import pytest
import torch

from meta_tests.conftest import ROOT
from metrics import Attack, Status, adversarial_distance
from metrics.norms import DUAL, vector_norm
from metrics.precision import _BACKENDS, arithmetic
from robustness_tests.subjects.catalog import MODELS
from robustness_tests.subjects.datasets import digits
from robustness_tests.subjects.models import bundled

OLDER = [
    "pass",
    "torch.set_float32_matmul_precision('medium')",
    "torch.backends.cuda.matmul.allow_tf32 = True",
    "torch.backends.cudnn.allow_tf32 = False",
]
NEWER = [
    "torch.backends.fp32_precision = 'tf32'",
    "torch.backends.cudnn.conv.fp32_precision = 'tf32'",
    "torch.backends.cuda.matmul.fp32_precision = 'tf32'",
    "torch.backends.mkldnn.matmul.fp32_precision = 'bf16'",
]
SCRIPT = """
import torch
from metrics import adversarial_distance
from metrics.precision import _BACKENDS, _readable

{setting}

def settings():
    return (
        _readable(torch.get_float32_matmul_precision),
        _readable(lambda: torch.backends.cudnn.allow_tf32),
        _readable(lambda: torch.backends.cuda.matmul.allow_tf32),
        [backend.fp32_precision for backend in _BACKENDS],
    )

def model(images):
    if errors:  # within the metric; a network may read the older interface
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cuda.matmul.allow_tf32
    logits = images.flatten(1) @ weights
    errors.append(float((logits.double() - images.flatten(1).double() @ weights.double()).abs().max()))
    return logits

torch.manual_seed(0)
errors, weights, images = [], torch.randn(3072, 10), torch.rand(64, 3, 32, 32)
before = settings()
adversarial_distance(model, images, model(images).argmax(dim=1), norm="l2", effort="quick")
assert max(errors[1:]) < 1e-3, max(errors[1:])  # float32: 0.0001, bfloat16: 0.4
assert settings() == before, (before, settings())
"""


@pytest.mark.parametrize("setting", OLDER + (NEWER if hasattr(torch.backends, "fp32_precision") else []))
def test_settings_of_the_process_do_not_matter(setting):
    """In processes of their own: torch does not allow all of these one after the other."""
    script = SCRIPT.format(setting=setting)
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr


def test_tf32_is_for_gpus_and_restored():
    before = [backend.fp32_precision for backend in _BACKENDS], torch.get_float32_matmul_precision()
    with arithmetic("tf32", torch.device("cuda")):
        assert torch.get_float32_matmul_precision() == "high"
        assert torch.backends.cudnn.allow_tf32
        assert all(backend.fp32_precision == "tf32" for backend in _BACKENDS)
    with arithmetic("tf32", torch.device("cpu")):
        assert torch.get_float32_matmul_precision() == "highest"
    assert before == ([backend.fp32_precision for backend in _BACKENDS], torch.get_float32_matmul_precision())


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_search_in_bfloat16_is_confirmed_in_float32(norm):
    data, network = digits("test"), bundled(MODELS["digits", "robust"])
    images, labels = data.images[:12], data.labels[:12]
    usual, found = (
        adversarial_distance(network, images, labels, norm=norm, effort="quick", precision=precision)
        for precision in ("float32", "bf16")
    )
    attacked = found.status == Status.ATTACKED
    assert attacked.equal(usual.status == Status.ATTACKED)
    assert (network(found.adversarial[attacked]).argmax(dim=1) != labels[attacked]).all()
    torch.testing.assert_close(vector_norm(found.adversarial - images, norm)[attacked], found.distance[attacked])
    ratio = (found.distance / usual.distance)[attacked]
    assert 0.98 < ratio.median() < 1.02
    assert (ratio != 1).any(), "it was bfloat16"
    assert (found.attack[attacked] != Attack.NONE).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_distance_of_a_linear_model_after_a_search_in_bfloat16(norm):
    """The closed form, margin / dual norm: never below it, and hardly above."""
    generator = torch.Generator().manual_seed(3)
    layer = torch.nn.Linear(48, 2).requires_grad_(False).eval()
    layer.weight.copy_(torch.randn(2, 48, generator=generator))
    network = torch.nn.Sequential(torch.nn.Flatten(), layer).eval()
    images = 0.3 + 0.4 * torch.rand(6, 3, 4, 4, generator=generator)
    labels = network(images).argmax(dim=1)
    found = adversarial_distance(network, images, labels, norm=norm, precision="bf16")
    margins = network(images).diff(dim=1).abs().flatten()
    exact = margins / vector_norm((layer.weight[:1] - layer.weight[1:]), DUAL[norm])
    assert (found.distance >= exact * (1 - 1e-5)).all()
    assert (found.distance <= exact * 1.01).all()


def test_what_is_wrong_in_bfloat16_is_attacked_again():
    """In bfloat16 this network puts every image into another class, so nothing that the search finds is right."""
    weights = torch.tensor([[1.0, 0.0], [0.0, 1.0]])

    def model(images):
        logits = images.flatten(1) @ weights
        return -logits if torch.is_autocast_enabled("cpu") else logits

    image, label = torch.tensor([0.9, 0.3]).view(1, 1, 1, 2), torch.tensor([0])
    usual, found = (
        adversarial_distance(model, image, label, norm="linf", precision=precision) for precision in ("float32", "bf16")
    )
    torch.testing.assert_close(found.distance, torch.tensor([0.3]))
    assert int(found.forward) > int(usual.forward)


def test_wrong_precision():
    image, label = torch.zeros(1, 1, 1, 2), torch.tensor([0])
    with pytest.raises(ValueError, match="got precision='fp16', expected one of"):
        adversarial_distance(lambda images: images.flatten(1), image, label, norm="linf", precision="fp16")
    with pytest.raises(ValueError, match="got precision='bf16', expected one of"):
        adversarial_distance(lambda _: _, image, label, norm="linf", precision="bf16", method="iterated-pgd")
