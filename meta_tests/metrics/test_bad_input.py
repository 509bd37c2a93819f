"""Bad input never gives a number: every metric refuses it, with what was got and what was expected."""

import pytest
import torch
from torch import nn

from metrics import adversarial_distance, clever

IMAGES = torch.rand(4, 1, 3, 3, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 0])


def linear(images):
    weights = torch.linspace(-1, 1, 27).view(9, 3)
    return images.flatten(1) @ weights


def run_distance(model, images, labels, **other):
    return adversarial_distance(model, images, labels, **{"norm": "l2", **other})


def run_clever(model, images, labels, **other):
    return clever(model, images, labels, **{"norm": "l2", "radius": 1.0, **other})


class Noisy(nn.Module):
    def forward(self, images):
        return linear(images) + torch.rand(len(images), 3)


CASES = {
    "values up to 255": ((linear, IMAGES * 255, LABELS), r"from .* to .*, expected \[0, 1\]"),
    "negative values": ((linear, IMAGES - 0.5, LABELS), r"expected \[0, 1\]"),
    "NaN": ((linear, IMAGES / 0 * 0, LABELS), "NaN or infinity in image 0"),
    "no batch dimension": ((linear, IMAGES[0], LABELS[:1]), r"shape \(1, 3, 3\), expected \(N, C, H, W\)"),
    "no images": ((linear, IMAGES[:0], LABELS[:0]), "N >= 1"),
    "bytes": ((linear, (IMAGES * 255).byte(), LABELS), "torch.uint8"),
    "half precision": ((linear, IMAGES.half(), LABELS), "torch.float16"),
    "too few labels": ((linear, IMAGES, LABELS[:2]), r"labels of shape \(2,\), expected \(4,\)"),
    "labels as floats": ((linear, IMAGES, LABELS.float()), "torch.float32, expected torch.int64"),
    "labels from 1": ((linear, IMAGES, LABELS + 1), "labels from 1 to 3, expected 0 to 2"),
    "negative label": ((linear, IMAGES, LABELS - 1), "labels from -1 to 1"),
    "probabilities": ((lambda x: linear(x).softmax(dim=1), IMAGES, LABELS), "look like probabilities, expected logits"),
    "NaN logits": ((lambda x: linear(x) / 0 * 0, IMAGES, LABELS), "among the logits"),
    "logits of another rank": ((lambda x: linear(x)[:, :, None], IMAGES, LABELS), r"\(4, 3, 1\), expected logits"),
    "one class": ((lambda x: linear(x)[:, :1], IMAGES, LABELS * 0), r"K >= 2"),
    "tuple output": ((lambda x: (linear(x), 0), IMAGES, LABELS), "got model output tuple"),
    "training mode": ((nn.Sequential(nn.Flatten(), nn.Linear(9, 3)), IMAGES, LABELS), "call model.eval()"),
    "random outputs": ((Noisy().eval(), IMAGES, LABELS), "expected a deterministic model"),
}


@pytest.mark.parametrize("metric", [run_distance, run_clever])
@pytest.mark.parametrize("case", CASES)
def test_is_refused(metric, case):
    arguments, message = CASES[case]
    with pytest.raises(ValueError, match=message):
        metric(*arguments)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"norm": "l7"}, "got norm='l7', expected one of 'linf', 'l2'"),
        ({"seed": [1, 2]}, "got 2 seeds for 4 images"),
        ({"batch_size": 0}, "got batch_size=0, expected a whole number, 1 or more"),
    ],
)
@pytest.mark.parametrize("metric", [run_distance, run_clever])
def test_bad_argument_is_refused(metric, other, message):
    with pytest.raises(ValueError, match=message):
        metric(linear, IMAGES, LABELS, **other)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"radius": 0.0}, "got radius=0.0, expected a finite number above 0"),
        ({"radius": float("nan")}, "got radius=nan"),
        ({"blocks": 2}, "got blocks=2, expected a whole number, 3 or more"),
        ({"pruning": 0.5}, "got pruning=0.5"),
        ({"targets": LABELS[:, None]}, "the image's own label"),
        ({"targets": LABELS[:, None] + 7}, "expected classes of the model"),
        ({"targets": LABELS}, r"got targets of shape \(4,\)"),
    ],
)
def test_bad_argument_of_clever_is_refused(other, message):
    with pytest.raises(ValueError, match=message):
        run_clever(linear, IMAGES, LABELS, **other)


def test_unknown_effort_is_refused():
    with pytest.raises(ValueError, match="got effort='most', expected one of 'quick', 'default', 'thorough'"):
        run_distance(linear, IMAGES, LABELS, effort="most")
