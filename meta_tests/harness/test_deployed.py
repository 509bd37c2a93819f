"""The form of the candidate that ships: along the candidate's adversarial examples, and through the gate."""

import textwrap
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from robustness_tests.harness.fixtures.deployed import BISECTIONS, FARTHEST, POINTS, along_the_line
from robustness_tests.harness.subject import Subject
from robustness_tests.subjects.images import Images
from robustness_tests.subjects.outputs import OneByOne


def subject_of(network, image, label):
    images = Images(image[None], torch.tensor([label]))
    return Subject("mine", network, "data", images, torch.device("cpu"), "")


@pytest.mark.parametrize("share", [0.03, 0.3, 0.9995, 1.2, 1.97])
def test_the_line_to_an_adversarial_example(share):
    """A linear network whose boundary is at a known share of the way: found up to the last bracket, from above."""
    clean, adversarial = torch.full((1, 2, 2), 0.5), torch.full((1, 2, 2), 0.6)

    class Boundary(nn.Module):
        def forward(self, images):
            beyond = images.mean(dim=(1, 2, 3)) - (0.5 + 0.1 * share)
            return torch.stack([-beyond, beyond], dim=1)

    found = along_the_line(subject_of(Boundary().eval(), clean, 0), 0, adversarial)
    bracket = FARTHEST / POINTS / 2**BISECTIONS
    assert share - 1e-5 <= found.ratio <= share + bracket + 1e-5
    assert found.forward == POINTS + BISECTIONS


def test_nothing_on_the_line_fools_it():
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).requires_grad_(False).eval()
    network[1].weight.zero_()
    network[1].bias.copy_(torch.tensor([1.0, 0.0]))
    found = along_the_line(subject_of(network, torch.full((1, 2, 2), 0.5), 0), 0, torch.full((1, 2, 2), 0.6))
    assert found.ratio == FARTHEST


def test_one_image_at_a_time():
    """A dynamically quantised layer takes its scale from the whole batch."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    quantised = torch.ao.quantization.quantize_dynamic(network, {nn.Linear})
    images = torch.rand(5, 1, 4, 4) * torch.linspace(0.1, 1, 5).view(-1, 1, 1, 1)
    alone = torch.cat([quantised(image) for image in images.split(1)])
    assert not quantised(images).equal(alone), "otherwise this test shows nothing"
    assert OneByOne(quantised)(images).equal(alone)


NET = """
    import torch
    from robustness_tests.subjects.catalog import MODELS
    from robustness_tests.subjects.models import bundled

    def good():
        return bundled(MODELS["digits", "mlp"])

    def quantised():
        return torch.ao.quantization.quantize_dynamic(good(), {torch.nn.Linear})

    class Fragile(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = good()

        def forward(self, images):
            logits = self.network(images)
            return logits.scatter_add(1, logits.argmax(dim=1, keepdim=True), torch.full_like(logits[:, :1], -2))

    def fragile():
        return Fragile().eval()

    def other():
        return bundled(MODELS["digits", "standard"])
"""

FEW = ("--model=net.py:good", "--dataset=digits", "--quick", "--images=8", "--batch-size=8", "--certify=off")


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_a_quantised_form_through_the_gate(gate, workers):
    (gate.folder / "net.py").write_text(textwrap.dedent(NET))
    result = gate(workers, *FEW, "--deployed=net.py:quantised", "--norms=linf,l2", "-k", "deployed")
    assert result.ret == 0, result.stdout.str()
    result.stdout.fnmatch_lines(
        ["*net.good (net.py:good) against standard, deployed as net.quantised (net.py:quantised), on digits*"]
    )
    for norm in ("linf", "l2"):
        ratio = gate.values(f"test_deployed_form_is_fooled_no_earlier[net.good-digits-{norm}]")["value"]
        assert 0.95 < ratio < 1.1
    assert gate.values("test_deployed_form_agrees_with_candidate")["value"] > 0.98
    refused = gate("-n0", *FEW[1:], "--model=net.py:quantised")
    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    refused.stderr.fnmatch_lines(["*got a quantised layer *: --model takes that one, and --deployed this one*"])


def test_a_fragile_form_is_found(gate):
    """It needs a margin of 2 where the candidate needs 0, and takes most clean images for what they are."""
    (gate.folder / "net.py").write_text(textwrap.dedent(NET))
    result = gate("-n0", *FEW, "--deployed=net.py:fragile", "--norms=linf", "-k", "fooled")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*net.fragile is fooled at 0.* of the adversarial distance of net.good*"])


def test_another_network_does_not_agree(gate):
    (gate.folder / "net.py").write_text(textwrap.dedent(NET))
    result = gate("-n0", *FEW, "--deployed=standard", "--norms=linf", "-k", "agrees")
    values = gate.values("test_deployed_form_agrees_with_candidate")
    assert result.ret == (values["value"] < 0.98)
    assert 0.9 < values["value"] < 1


def test_without_a_deployed_form_its_tests_are_not_collected(gate):
    result = gate("-n0", "--quick", "--images=2", "--collect-only", "-q")
    assert "deployed" not in result.stdout.str()


def test_wrong_forms_are_refused(gate):
    (gate.folder / "net.py").write_text(textwrap.dedent(NET) + "\ndef train():\n    return good().train()\n")
    messages = {
        "nothing": "--deployed: got 'nothing', expected one of",
        "net.py:none": "there is no 'none'",
        "net.py:train": "in training mode, expected evaluation mode",
    }
    for name, message in messages.items():
        refused = gate("-n0", *FEW, f"--deployed={name}")
        assert refused.ret == pytest.ExitCode.USAGE_ERROR
        assert message in refused.stderr.str()


def test_property_names_what_it_needs():
    """The median over images, and the message."""
    from robustness_tests import test_deployed  # noqa: PLC0415  # a test file of the suite

    names = [SimpleNamespace(name=name) for name in ("ours", "shipped")]
    found = {0: SimpleNamespace(ratio=0.5, forward=45), 1: SimpleNamespace(ratio=0.94, forward=45), 2: None}
    thresholds, values = SimpleNamespace(deployed_tolerance=0.3), {}

    def measured(*given, **named):
        values.update(*given, **named)

    arguments = (*names, lambda image, _: found[image], range(3), "l2")
    test_deployed.test_deployed_form_is_fooled_no_earlier(*arguments, thresholds, measured)
    assert (values["value"], values["images"], values["forward"]) == (0.72, 2, 90)
    thresholds.deployed_tolerance = 0.2
    with pytest.raises(AssertionError, match=r"shipped is fooled at 0.720 of .* ours \(l2, .*, expected 0.800"):
        test_deployed.test_deployed_form_is_fooled_no_earlier(*arguments, thresholds, measured)
    found |= dict.fromkeys(range(3))
    with pytest.raises(pytest.skip.Exception, match="no image has an adversarial example"):
        test_deployed.test_deployed_form_is_fooled_no_earlier(*arguments, thresholds, measured)
