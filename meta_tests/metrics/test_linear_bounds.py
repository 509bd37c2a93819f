"""Bounds of networks: by hand, against linear programs, and by trying to get out of them."""

from itertools import pairwise

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies
from scipy.optimize import linprog
from torch import nn
from torch.nn import functional

from metrics.linear_bounds import Ball, Unsupported, bounds_of, least_margins, program_of
from metrics.linear_bounds.activations import SMOOTH, relu
from metrics.linear_bounds.interval import Interval
from metrics.linear_bounds.operations import Linear


def linear(weight, bias):
    layer = nn.Linear(len(weight[0]), len(weight)).double()
    layer.weight.data, layer.bias.data = torch.tensor(weight).double(), torch.tensor(bias).double()
    return layer


def bounds(network, image, epsilon, norm="linf", **options):
    program = program_of(network.eval(), image)
    radius = torch.full((1,), epsilon, dtype=image.dtype)
    with torch.no_grad():
        return bounds_of(program, Ball(image[None], radius, norm), **options)


HALF = torch.full((1, 1, 2), 0.5, dtype=torch.float64)


def test_two_layers_by_hand():
    """z = (2a - b, a + b - 1) on [0, 1]^2, logits (relu(z1) - relu(z2), 0).

    z1 in [-1, 2]: relu(z1) >= z1, since 2 > 1. z2 in [-1, 1]: relu(z2) <= (z2 + 1) / 2. So the margin is at least
    2a - b - (a + b) / 2 = 1.5 a - 1.5 b >= -1.5. By intervals: 0 - 1.
    """
    network = nn.Sequential(
        nn.Flatten(), linear([[2, -1], [1, 1]], [0, -1]), nn.ReLU(), linear([[1, -1], [0, 0]], [0, 0])
    )
    found = bounds(network, HALF, 0.5)
    label = torch.tensor([0])
    before = found.intervals[2]
    assert torch.allclose(before.lower, torch.tensor([[-1.0, -1.0]]).double(), atol=1e-9)
    assert torch.allclose(before.upper, torch.tensor([[2.0, 1.0]]).double(), atol=1e-9)
    assert float(least_margins(found, label, linear=False)) == pytest.approx(-1, abs=1e-9)
    coefficients = torch.tensor([[[1.0, -1.0]]]).double()
    assert float(found.least(4, coefficients, torch.tensor([0]))) == pytest.approx(-1.5, abs=1e-9)
    # Of both bounds, the better one counts.
    assert float(least_margins(found, label)) == pytest.approx(-1, abs=1e-9)


def test_three_layers_by_hand():
    """z = (a - b, b) on [0, 1]^2; y = (relu(z1) - 1/4, relu(z1) + z2 - 1/2), relu(z2) being z2; logits (y1+ + y2+, 0).

    z1 in [-1, 1]: 0 <= relu(z1) <= (z1 + 1) / 2, and its lower slope is 0. y1: >= -0.25, <= (a - b + 1) / 2 - 0.25
    <= 0.75. y2 >= b - 0.5 >= -0.5, <= (a - b + 1) / 2 + b - 0.5 = (a + b) / 2 <= 1, where intervals say 1.5. Both lower
    slopes are 1 (0.75 > 0.25, 1 > 0.5), so the margin is at least 0 - 0.25 + b - 0.5 >= -0.75; by intervals 0.
    """
    network = nn.Sequential(
        nn.Flatten(),
        linear([[1, -1], [0, 1]], [0, 0]),
        nn.ReLU(),
        linear([[1, 0], [1, 1]], [-0.25, -0.5]),
        nn.ReLU(),
        linear([[1, 1], [0, 0]], [0, 0]),
    )
    found = bounds(network, HALF, 0.5)
    assert found.intervals[4].upper.flatten().tolist() == pytest.approx([0.75, 1], abs=1e-9)
    assert found.intervals[4].lower.flatten().tolist() == pytest.approx([-0.25, -0.5], abs=1e-9)
    by_interval = bounds(network, HALF, 0.5, crown=False)
    assert by_interval.intervals[4].upper.flatten().tolist() == pytest.approx([0.75, 1.5], abs=1e-9)
    coefficients = torch.tensor([[[1.0, -1.0]]]).double()
    assert float(found.least(6, coefficients, torch.tensor([0]))) == pytest.approx(-0.75, abs=1e-9)


def dense_network(seed, sizes):
    torch.manual_seed(seed)
    layers = [nn.Flatten()]
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).double().eval().requires_grad_(False)


def linear_program(layers, lower, upper, intervals, goal):
    """The least value of goal . logits over the triangle relaxation of the network, given the intervals."""
    weights = [(layer.weight.numpy(), layer.bias.numpy()) for layer in layers if isinstance(layer, nn.Linear)]
    sizes = [len(lower), *[len(bias) for _, bias in weights for _ in range(2)][:-1]]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    equal, right, below, limit = [], [], [], []
    limits = [*zip(lower, upper, strict=True)]
    for depth, (weight, bias) in enumerate(weights):
        source, target = starts[2 * depth], starts[2 * depth + 1]
        for unit in range(len(bias)):
            row = np.zeros(starts[-1])
            row[source : source + weight.shape[1]], row[target + unit] = weight[unit], -1
            equal.append(row), right.append(-bias[unit])
        limits += [(None, None)] * len(bias)
        if depth == len(weights) - 1:
            break
        for unit, (low, high) in enumerate(intervals[depth]):
            before, after = target + unit, starts[2 * depth + 2] + unit
            limits.append((0, None))
            row = np.zeros(starts[-1])
            row[before], row[after] = 1, -1
            below.append(row), limit.append(0)  # after >= before
            row = np.zeros(starts[-1])
            slope = 1.0 if low >= 0 else 0.0 if high <= 0 else high / (high - low)
            row[after], row[before] = 1, -slope
            below.append(row), limit.append(0 if low >= 0 or high <= 0 else -slope * low)
    cost = np.zeros(starts[-1])
    cost[starts[-2] :] = goal
    found = linprog(cost, np.array(below), np.array(limit), np.array(equal), np.array(right), limits)
    assert found.status == 0
    return found.fun


@pytest.mark.parametrize("sizes", [(4, 6, 3), (4, 8, 6, 3)], ids=["2 layers", "3 layers"])
@pytest.mark.parametrize("seed", range(8))
def test_never_beyond_linear_programs(sizes, seed):
    """CROWN chooses one lower line of the triangle relaxation, so the linear program over it is at least as tight."""
    network = dense_network(seed, sizes)
    image = torch.rand(1, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = bounds(network, image, 0.2)
    box = found.ball.interval()
    before = [node.inputs[0] for node in found.program.nodes if getattr(node.operation, "name", "") == "relu"]
    intervals = [
        list(zip(*(end.flatten().tolist() for end in found.intervals[number]), strict=True)) for number in before
    ]
    ends = [end.flatten().numpy() for end in box]
    margins = least_margins(found, torch.tensor([0])).flatten()
    samples = box.lower + (box.upper - box.lower) * torch.rand(4000, 1, 2, 2, dtype=torch.float64).round(decimals=1)
    logits = network(samples)
    for target, least in zip((1, 2), margins.tolist(), strict=True):
        goal = np.zeros(3)
        goal[0], goal[target] = 1, -1
        program = linear_program(network, *ends, intervals, goal)
        assert least <= program + 1e-5
        assert program <= float((logits[:, 0] - logits[:, target]).min()) + 1e-9
    # Every layer: the linear program for each of its values, with the intervals of the layers before.
    if len(sizes) == 4:
        cut = nn.Sequential(*list(network)[:4])
        for unit, (low, high) in enumerate(intervals[1]):
            goal = np.eye(sizes[2])[unit]
            assert low <= linear_program(cut, *ends, intervals[:1], goal) + 1e-5
            assert high >= -linear_program(cut, *ends, intervals[:1], -goal) - 1e-5


class Residual(nn.Module):
    """Everything that moves values, and two ways from the image to the logits."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, stride=2, padding=1)
        self.third, self.last = nn.Conv2d(8, 6, 2, groups=2), nn.Linear(6, 3)
        self.register_buffer("mean", torch.tensor([0.4, 0.6]).view(1, 2, 1, 1))

    def forward(self, images):
        normalised = (images - self.mean) / 0.25
        features = functional.relu(self.first(normalised))
        shortcut = functional.pad(features[:, 1:3, ::2, ::2], (0, 0, 0, 0, 1, 1))
        features = torch.cat([functional.leaky_relu(self.second(features) - shortcut, 0.1), shortcut], dim=1)
        features = functional.max_pool2d(self.third(features), 2, stride=1)
        features = features.transpose(2, 3).flip(1).clamp(-0.5, 0.75)
        return self.last(2 * features.mean(dim=(2, 3)) - 0.5 + features.sum(dim=(2, 3)).relu() + features[:, :, 0, 0])


def convolutional(activation):
    return nn.Sequential(
        nn.BatchNorm2d(2), nn.Conv2d(2, 5, 3, dilation=2, padding=2), nn.BatchNorm2d(5), activation,
        nn.MaxPool2d(3, stride=2, padding=1), nn.Conv2d(5, 6, 2), activation, nn.AvgPool2d(2, stride=1),
        nn.AdaptiveAvgPool2d((1, 2)), nn.Dropout(), nn.Flatten(), nn.Linear(12, 8), nn.BatchNorm1d(8), activation,
        nn.Linear(8, 3),
    )  # fmt: skip


NETWORKS = {
    "residual": Residual,
    **{
        type(activation).__name__: lambda activation=activation: convolutional(activation)
        for activation in [
            nn.ReLU(), nn.LeakyReLU(0.2), nn.ReLU6(), nn.Hardtanh(), nn.Sigmoid(), nn.Tanh(), nn.SiLU(), nn.GELU(),
            nn.Softplus(), nn.ELU(),
        ]
    },
}  # fmt: skip


def random_network(name, seed, dtype):
    torch.manual_seed(seed)
    network = NETWORKS[name]().eval().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.1, 2)
            module.weight.normal_()
            module.bias.normal_(0, 0.3)
    return network.to(dtype)


def chosen(image, epsilon, norm, seed):
    """Many images of the ball and the box, most of them at its edge."""
    generator = torch.Generator().manual_seed(seed)
    steps = torch.randn(400, *image.shape, generator=generator, dtype=torch.float64)
    steps[::4] *= torch.rand(100, *image.shape, generator=generator, dtype=torch.float64) < 0.1
    size = steps.abs().flatten(1).amax(1) if norm == "linf" else steps.flatten(1).norm(dim=1)
    if norm == "linf":
        steps, size = (
            torch.where(torch.arange(400).view(-1, 1, 1, 1) % 2 == 0, steps, steps.sign()),
            size.clamp(max=1e9),
        )
        size = steps.abs().flatten(1).amax(1)
    steps = steps / size.clamp_min(1e-9).view(-1, 1, 1, 1) * epsilon
    return (image + steps).clamp(0, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_layer_stays_within_its_bounds(name, norm, dtype):
    """Of random networks with every operation there are bounds for; some pixels are 0 or 1."""
    for seed, epsilon in enumerate((0.01, 0.1, 0.5)):
        network = random_network(name, seed, dtype)
        image = (torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(seed)) * 1.4 - 0.2).clamp(0, 1).to(dtype)
        found = bounds(network, image, epsilon, norm)
        by_interval = bounds(network, image, epsilon, norm, crown=False)
        images = chosen(image.double(), epsilon * (1 - 1e-6), norm, seed).to(dtype)
        values = [images]
        for node, tight, loose in zip(
            found.program.nodes[1:], found.intervals[1:], by_interval.intervals[1:], strict=True
        ):
            apply = getattr(node.operation, "apply", getattr(node.operation, "function", None))
            values.append(apply(*(values[one] for one in node.inputs)))
            for interval in (tight, loose):
                assert (values[-1] >= interval.lower).all(), node
                assert (values[-1] <= interval.upper).all(), node
            slack = 1e-4 * (1 + loose.magnitude())
            assert (tight.lower >= loose.lower - slack).all()
            assert (tight.upper <= loose.upper + slack).all()
        assert torch.allclose(values[-1], network(images), rtol=1e-4, atol=1e-4)
        for label in range(3):
            least = least_margins(found, torch.tensor([label])).flatten()
            logits = network(images).double()
            others = [one for one in range(3) if one != label]
            margins = logits[:, [label]] - logits[:, others]
            assert (margins >= least).all()
            # Not by being useless either: on a small ball they are near what is reached.
            if epsilon == 0.01:
                assert (margins.amin(dim=0) - least <= 0.5 + 2 * (margins.amax(dim=0) - margins.amin(dim=0))).all()


@pytest.mark.parametrize("activation", [*SMOOTH.values(), relu(), relu(0.2)], ids=lambda activation: activation.name)
@hypothesis.given(
    low=strategies.floats(-30, 30), width=strategies.one_of(strategies.floats(0, 60), strategies.floats(0, 1e-3))
)
@hypothesis.settings(max_examples=60, deadline=None)
def test_lines_of_activations(activation, low, width):
    """Between the lines at a thousand points, and not far from them: they touch at the ends or in between."""
    ends = torch.tensor([[low], [low + width]], dtype=torch.float64)
    interval = Interval(ends[:1], ends[1:])
    lines = activation.lines(interval)
    points = torch.linspace(0, 1, 1001, dtype=torch.float64) * width + low
    values = activation.function(points)
    below = lines.lower_slope * points + lines.lower_offset
    above = lines.upper_slope * points + lines.upper_offset
    assert (below <= values + 1e-12).all()
    assert (above >= values - 1e-12).all()
    touching = 1e-3 * width + 1e-6 * (1 + abs(low)) + activation.curvature * width**2 / 1000
    assert float((values - below).min()) <= touching
    assert float((above - values).min()) <= touching
    within = activation.interval(interval)
    assert (values >= within.lower).all()
    assert (values <= within.upper).all()


class Broken(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function, self.linear = function, nn.Linear(12, 3)

    def forward(self, images):
        return self.function(self.linear(images.flatten(1)))


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda z: z.softmax(dim=1) * 3, "softmax"),
        (lambda z: z * z, "product of two things"),
        (lambda z: z / (1 + z), "division by something"),
        (lambda z: z if z.sum() > 0 else -z, "torch.export cannot read"),
        (lambda z: z - z.mean(dim=0), "batch"),
        (lambda z: z.flip(0), "flip mixes the images"),
        (lambda z: z.permute(1, 0).reshape(2, 3), "mixes the images"),
        (lambda z: z.half().float(), "conversion"),
        (lambda z: functional.elu(z, alpha=2.0), "parameters"),
        (lambda z: functional.leaky_relu(z, 3.0), "negative slope"),
        (lambda z: torch.ones(2, 3), "does not|do not depend"),
        (lambda z: z.sort(dim=1).values, "sort"),
        (lambda z: z.double().float(), "one precision"),
        (lambda z: z.clamp(0.5, 0.4), "between 0.5 and 0.4"),
        (lambda z: functional.avg_pool2d(z[:, None], (1, 1), divisor_override=-2)[:, 0], "negative weights"),
        (lambda z: z + torch.arange(6.0).view(2, 3), "differs between the images"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_there_are_no_bounds_for(function, reason):
    with pytest.raises(Unsupported, match=reason):
        program_of(Broken(function).eval(), torch.rand(3, 2, 2))


def test_rounding_of_the_model_is_in_the_bounds():
    """A sum of 4,096 large terms that cancel: in float32 it comes out differently from batch to batch, by 0.1."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(1, 4096, generator=generator) * 3000
    layer = nn.Linear(4096, 2, bias=False)
    layer.weight.data = torch.cat([weight, torch.zeros_like(weight)])
    network = nn.Sequential(nn.Flatten(), layer).eval().requires_grad_(False)
    image = torch.rand(1, 64, 64, generator=generator)
    found = bounds(network, image, 0.0)
    exact = float(layer.weight[0].double() @ image.flatten().double())
    orders = torch.stack([torch.randperm(4096, generator=generator) for _ in range(50)])
    terms = (layer.weight[0] * image.flatten()).numpy()
    sums = [float(np.add.accumulate(terms[order], dtype=np.float32)[-1]) for order in orders.numpy()]
    interval = found.intervals[-1]
    assert max(abs(one - exact) for one in sums) > 1e-3, "this test tests nothing: the sums do not round"
    assert float(interval.lower[0, 0]) <= min(sums)
    assert float(interval.upper[0, 0]) >= max(sums)
    # The linear bound as well: logit 0 minus logit 1.
    assert float(found.least(len(found.program.nodes) - 1, torch.tensor([[[1.0, -1.0]]]), torch.tensor([0]))) <= min(
        sums
    )
    assert float(interval.upper[0, 0] - interval.lower[0, 0]) < 2e-3 * np.abs(terms).sum()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_linear_bounds_give_away_what_rounding_may_take(dtype):
    """At least n rounding errors of each sum of n products, of the absolute values of its terms, in every layer.

    What is observed is some sqrt(n) of them, so that no experiment shows whether this is there.
    """
    network = dense_network(0, (4, 6, 5, 3)).to(dtype)
    image = torch.rand(1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=dtype)
    found = bounds(network, image, 0.1)
    unit = torch.finfo(dtype).eps / 2
    checked = 0
    for node, relaxation in zip(found.program.nodes[1:], found.relaxations, strict=True):
        if not isinstance(node.operation, Linear):
            continue
        operand = found.intervals[node.inputs[0]].magnitude().double()
        terms = operand @ node.operation.weight.double().abs().T + node.operation.bias.double().abs()
        coefficients = torch.randn(1, 7, *node.shape, dtype=dtype)
        exact = (coefficients.double() * node.operation.bias.double()).sum(dim=2)
        worst = (
            (node.operation.fan_in + node.operation.fan_out) * unit * (coefficients.double().abs() * terms).sum(dim=2)
        )
        constant = relaxation.constant(coefficients, torch.tensor([0]))
        assert (constant <= exact - worst).all()
        assert (constant >= exact - 20 * worst).all()
        checked += 1
    assert checked == 3


def test_a_diagonal_convolution_that_moves_values_is_no_normalisation():
    """2x2 pixels with a padding of 1 and a stride of 2 are 2x2 again, and others."""
    first = nn.Conv2d(2, 2, 1, stride=2, padding=1)
    first.weight.data = torch.diag(torch.tensor([2.0, 3.0])).view(2, 2, 1, 1)
    network = nn.Sequential(first, nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)).eval().requires_grad_(False)
    images = torch.rand(4, 2, 2, 2)
    assert torch.allclose(program_of(network, images[0]).apply(images), network(images), atol=1e-6)
