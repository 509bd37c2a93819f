"""Norms, projections, and samples that are uniform in a ball."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import linprog

from metrics.box import nearest_beyond
from metrics.norms import DUAL, project, steepest, uniform_in_ball, vector_norm

vectors = st.lists(st.floats(-10, 10, width=32), min_size=3, max_size=3).map(lambda v: torch.tensor([v]))


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@given(left=vectors, right=vectors)
def test_dual_norm_bounds_the_inner_product(norm, left, right):
    inner = float((left.double() * right.double()).sum().abs())
    bound = float(vector_norm(left.double(), norm) * vector_norm(right.double(), DUAL[norm]))
    assert inner <= bound * (1 + 1e-12) + 1e-12


@pytest.mark.parametrize("norm", ["linf", "l2"])
@given(gradient=vectors)
def test_steepest_direction_reaches_the_dual_norm(norm, gradient):
    step = steepest(gradient, norm)
    assert float((step * gradient).sum()) == pytest.approx(
        float(vector_norm(gradient, DUAL[norm])), rel=1e-5, abs=1e-30
    )


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@given(point=vectors, radius=st.floats(0.01, 5))
def test_projection_is_in_the_ball_and_nearest(norm, point, radius):
    projected = project(point, norm, torch.tensor([radius]))
    assert float(vector_norm(projected, norm)) <= radius * (1 + 1e-5) + 1e-6 * float(point.abs().sum())
    # No point of the ball is nearer: tried with random ones.
    others = radius * uniform_in_ball(200, (3,), norm, torch.Generator().manual_seed(0))
    assert (
        float(vector_norm(point - projected, "l2"))
        <= float(vector_norm(point - others, "l2").min()) * (1 + 1e-5) + 1e-6
    )


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("size", [1, 2, 5, 40])
def test_samples_are_uniform_in_the_ball(norm, size):
    points = uniform_in_ball(4000, (size,), norm, torch.Generator().manual_seed(1))
    # Uniform in a ball of d dimensions: the d-th power of the norm is uniform on [0, 1].
    powers = vector_norm(points.double(), norm) ** size
    assert stats.kstest(powers.numpy(), "uniform").pvalue > 1e-3
    # And no direction is preferred: every coordinate is symmetric about 0, and all alike.
    assert points.mean(dim=0).abs().max() < 5 * points.std() / math.sqrt(len(points))
    if size > 1:
        assert stats.ks_2samp(points[:, 0].numpy(), points[:, -1].numpy()).pvalue > 1e-3


def test_coordinates_of_l1_samples_have_their_exact_law():
    # In two dimensions the L1 ball is a rotated square: x + y and x - y are independent and uniform on [-1, 1].
    points = uniform_in_ball(4000, (2,), "l1", torch.Generator().manual_seed(2))
    for turned in (points.sum(dim=1), points[:, 0] - points[:, 1]):
        assert stats.kstest(turned.numpy(), stats.uniform(-1, 2).cdf).pvalue > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_l1_projection_of_long_vectors_against_a_sort(dtype):
    """The threshold of Duchi et al. 2008, from the sorted magnitudes."""
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(20, 3000, generator=generator, dtype=dtype) ** 3
    radius = torch.logspace(-3, 4, 20, dtype=dtype)
    ordered = points.double().abs().sort(dim=1, descending=True).values
    thresholds = (ordered.cumsum(dim=1) - radius.double()[:, None]) / torch.arange(1, 3001)
    threshold = thresholds.gather(1, (ordered > thresholds).sum(dim=1, keepdim=True) - 1).clamp_min(0)
    expected = points.double().sign() * (points.double().abs() - threshold).clamp_min(0)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(project(points, "l1", radius).double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@given(
    point=st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4),
    gradient=st.lists(st.floats(-10, 10, width=32), min_size=4, max_size=4),
    share=st.one_of(st.just(0.0), st.floats(1e-3, 1.5)),
)
def test_nearest_point_beyond_a_boundary(norm, point, gradient, share):
    """Against a solver; and what the box does not allow goes as far as the box."""
    point, gradient = (torch.tensor([values], dtype=torch.float64) for values in (point, gradient))
    room = torch.where(gradient > 0, point, 1 - point)
    most = float((gradient.abs() * room).sum())
    found = nearest_beyond(point, gradient, torch.tensor([share * most], dtype=torch.float64), norm)
    assert ((point + found >= 0) & (point + found <= 1)).all()
    assert float(-(gradient * found).sum()) == pytest.approx(min(share, 1) * most, rel=1e-9, abs=1e-12)
    if norm == "l2" or share >= 1 or most < 1e-3:
        return  # the other two are linear programs; numbers below its tolerance of 1e-7 the solver takes for zero
    gradient = torch.where(gradient.abs() < 1e-6, 0, gradient)
    slopes, width = gradient.abs().numpy()[0], 2 * 4 if norm == "l1" else 4 + 1
    cost = [1.0] * 4 + [0.0] * 4 if norm == "l1" else [0.0] * 4 + [1.0]
    rows, limits = [[-slope for slope in slopes] + [0.0] * (width - 4)], [-share * most]
    if norm == "linf":
        for value in range(4):
            rows.append([float(value == other) for other in range(4)] + [-1.0])
            limits.append(0.0)
    bounds = [(0, float(value)) for value in room[0]] + [(0, None)] * (width - 4)
    solved = linprog(cost, rows, limits, bounds=bounds)
    assert float(vector_norm(found, norm)) == pytest.approx(solved.fun, rel=1e-6, abs=1e-7)


@given(
    point=st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4),
    gradient=st.lists(st.floats(-10, 10, width=32), min_size=4, max_size=4),
    share=st.floats(0.01, 0.99),
)
def test_nearest_point_beyond_a_boundary_in_l2(point, gradient, share):
    """The conditions of Karush, Kuhn and Tucker: a value moves in proportion to its slope, or to the end of the box."""
    point, gradient = (torch.tensor([values], dtype=torch.float64) for values in (point, gradient))
    room = torch.where(gradient > 0, point, 1 - point)
    amount = share * (gradient.abs() * room).sum(dim=1)
    moved = nearest_beyond(point, gradient, amount, "l2").abs()
    free = (moved < room * (1 - 1e-9)) & (gradient.abs() > 1e-3)
    multipliers = (moved / gradient.abs())[free]
    if len(multipliers):
        assert multipliers.max() <= multipliers.min() * (1 + 1e-6)
        stopped = (~free) & (gradient.abs() > 1e-3)
        assert ((moved / gradient.abs())[stopped] <= multipliers.max() * (1 + 1e-6)).all()


def test_unknown_norm_is_refused():
    with pytest.raises(ValueError, match="got norm='l7'"):
        uniform_in_ball(1, (2,), "l7", torch.Generator())
    with pytest.raises(ValueError, match="got norm='l7'"):
        vector_norm(torch.zeros(1, 2), "l7")


@pytest.mark.parametrize("scale", [1e-38, 1e-25, 1.0, 1e20, 1e30])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_nearest_point_does_not_depend_on_the_scale_of_the_slopes(norm, scale):
    generator = torch.Generator().manual_seed(0)
    points, gradients = torch.rand(5, 20, generator=generator), torch.randn(5, 20, generator=generator)
    expected = nearest_beyond(points, gradients, torch.full((5,), 0.7), norm)
    scaled = nearest_beyond(points, scale * gradients, torch.full((5,), scale * 0.7), norm)
    torch.testing.assert_close(scaled, expected, rtol=1e-4, atol=1e-5)
