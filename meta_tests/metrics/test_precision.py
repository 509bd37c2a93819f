"""Whatever the process allows its float32 arithmetic, metrics compute in full precision and restore the settings."""

import subprocess
import sys

import pytest
import torch

from meta_tests.conftest import ROOT

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
