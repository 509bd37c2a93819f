"""The end-point of block maxima against distributions whose end-point is known."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from metrics.extreme_value import SHAPE_PRIOR, end_point, gumbel_likelihood

DISTRIBUTIONS = {
    "1 + beta(4, 4) / 10": (lambda random, size: 1 + 0.1 * random.beta(4, 4, size), 1.1),
    "1 + beta(8, 8) / 10": (lambda random, size: 1 + 0.1 * random.beta(8, 8, size), 1.1),
    "beta(2, 2)": (lambda random, size: random.beta(2, 2, size), 1.0),
    "beta(2, 5)": (lambda random, size: random.beta(2, 5, size), 1.0),
}


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_bias_and_coverage(distribution):
    """3,200 samples in 50 blocks, 400 repeats: binomial noise of a 95 % interval's coverage is 1.1 %."""
    draw, end = DISTRIBUTIONS[distribution]
    found = end_point(torch.from_numpy(draw(np.random.default_rng(0), (400, 50, 64)).max(axis=2)))
    covered = ((found.lower <= end) & (end <= found.upper)).double().mean()
    assert 0.92 <= float(covered) <= 0.98
    # A wide distribution cannot be told from 3,200 samples: its interval says so, and its bias is larger.
    assert float(found.estimate.median()) / end == pytest.approx(1, abs=0.04 if distribution == "beta(2, 5)" else 0.01)
    assert not found.degenerate.any()


@pytest.mark.slow
def test_estimate_is_the_maximum_of_the_penalised_likelihood():
    """Against scipy's density, on a fine grid of end-points and shapes, with the best scale for each."""
    maxima = 1 + 0.1 * np.random.default_rng(1).beta(4, 4, (5, 40, 30)).max(axis=2)
    found = end_point(torch.from_numpy(maxima))

    def penalised(values, end, shape):
        scale = np.mean((end - values) ** shape) ** (1 / shape)
        likelihood = stats.weibull_max.logpdf(values, shape, loc=end, scale=scale).sum()
        return likelihood - np.log(shape / SHAPE_PRIOR[0]) ** 2 / (2 * SHAPE_PRIOR[1] ** 2)

    for row, values in enumerate(maxima):
        ours = penalised(values, float(found.estimate[row]), float(found.shape[row]))
        spread = values.max() - values.min()
        ends = values.max() + spread * np.geomspace(1e-4, 1e2, 150)
        best = max(penalised(values, end, shape) for end in ends for shape in np.geomspace(1, 100, 100))
        assert ours >= best - 1e-3


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**20), scale=st.floats(1e-6, 1e6))
def test_scale_goes_through(seed, scale):
    maxima = torch.from_numpy(np.random.default_rng(seed).beta(2, 3, (3, 20, 10)).max(axis=2))
    plain, scaled = end_point(maxima), end_point(scale * maxima)
    for name in ("estimate", "lower", "upper"):
        torch.testing.assert_close(getattr(scaled, name), scale * getattr(plain, name), rtol=1e-9, atol=0)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**20))
def test_is_never_below_a_sample_and_within_its_interval(seed):
    random = np.random.default_rng(seed)
    kind = [
        lambda: random.gumbel(5, 1, (4, 30)),
        lambda: random.uniform(0, 1, (4, 30)),
        lambda: random.pareto(3, (4, 30)),
    ]
    maxima = torch.from_numpy(kind[seed % 3]())
    found = end_point(maxima)
    assert (found.estimate >= maxima.amax(dim=1)).all()
    assert (found.lower <= found.estimate).all()
    assert (found.estimate <= found.upper).all()
    assert found.estimate.isfinite().all()


def test_problems_do_not_influence_each_other():
    maxima = torch.from_numpy(np.random.default_rng(2).beta(2, 3, (6, 20, 10)).max(axis=2))
    whole = end_point(maxima)
    alone = torch.cat([end_point(row[None]).estimate for row in maxima])
    torch.testing.assert_close(whole.estimate, alone, rtol=1e-12, atol=0)


def test_equal_maxima_are_the_end_point():
    found = end_point(torch.full((2, 10), 3.25))
    assert found.estimate.tolist() == found.lower.tolist() == found.upper.tolist() == [3.25, 3.25]
    assert found.shape.isnan().all()
    assert not found.degenerate.any()


def test_fit_that_adds_nothing_is_flagged():
    # Half of the maxima are the end-point itself, as for a network with few linear pieces.
    maxima = torch.tensor([[1.0] * 15 + [0.9, 0.8, 0.7, 0.6, 0.5]])
    found = end_point(maxima)
    assert bool(found.degenerate)
    assert float(found.estimate) == pytest.approx(1, abs=1e-3)


def test_p_value_is_uniform_or_larger_for_a_fitting_law_and_small_for_another():
    fitting = end_point(torch.from_numpy(np.random.default_rng(3).beta(4, 4, (200, 50, 64)).max(axis=2)))
    assert (fitting.p_value < 0.05).double().mean() <= 0.05
    two_lumps = torch.cat([torch.linspace(0.0, 0.01, 30), torch.linspace(0.9, 1.0, 30)])[None]
    assert float(end_point(two_lumps).p_value) < 0.01


@pytest.mark.parametrize("maxima", [torch.ones(5), torch.ones(2, 2), torch.tensor([[1.0, 2.0, float("nan")]])])
def test_bad_maxima_are_refused(maxima):
    with pytest.raises(ValueError, match="got maxima"):
        end_point(maxima)


def test_ends_of_the_interval_are_where_the_likelihood_has_fallen():
    """Against scipy's density: 1.92 below the top, with the best shape and scale for each end-point."""
    maxima = 1 + 0.1 * np.random.default_rng(4).beta(3, 3, (4, 40, 30)).max(axis=2)
    found = end_point(torch.from_numpy(maxima))

    def profile(values, end):
        def penalised(shape):
            scale = np.mean((end - values) ** shape) ** (1 / shape)
            likelihood = stats.weibull_max.logpdf(values, shape, loc=end, scale=scale).sum()
            return likelihood - np.log(shape / SHAPE_PRIOR[0]) ** 2 / (2 * SHAPE_PRIOR[1] ** 2)

        return max(penalised(shape) for shape in np.geomspace(1, 100, 400))

    for row, values in enumerate(maxima):
        top = profile(values, float(found.estimate[row]))
        for end in (float(found.lower[row]), float(found.upper[row])):
            assert top - profile(values, end) == pytest.approx(stats.chi2.ppf(0.95, 1) / 2, abs=0.1)


def test_smallest_and_largest_shape_are_found():
    # Half of the values at the top: shape 1, the least.
    crowded = torch.cat([torch.linspace(0.9, 1, 40), torch.linspace(0.0, 0.9, 20)])[None].double()
    assert float(end_point(crowded**0.2).shape) == 1.0
    gumbel = torch.from_numpy(np.random.default_rng(6).gumbel(5, 1, (50, 60)))
    assert float(end_point(gumbel).shape.max()) <= 100


@pytest.mark.parametrize(
    ("distribution", "least", "most"),
    [
        (lambda random: random.uniform(0, 1, (300, 40, 16)).max(axis=2), 0.0, 0.02),
        (lambda random: 1 - 0.1 * random.exponential(size=(300, 40)) ** (1 / 2), 0.0, 0.1),
        (lambda random: random.gumbel(5, 1, (300, 40)), 0.9, 0.99),
        (lambda random: random.pareto(3, (300, 40)), 0.99, 1.0),
    ],
)
def test_no_finite_endpoint_is_a_test_at_five_per_cent(distribution, least, most):
    """Of Gumbel's distribution all but 5 % have to be flagged, of distributions with a clear end-point hardly any."""
    found = end_point(torch.from_numpy(distribution(np.random.default_rng(7))))
    assert least <= float(found.no_finite_endpoint.double().mean()) <= most
    assert (found.estimate.isfinite()).all()


def test_largest_likelihood_of_the_gumbel_law():
    values = np.random.default_rng(8).gumbel(0.3, 0.1, (3, 50))
    below = (values.max(axis=1, keepdims=True) - values) / np.ptp(values, axis=1)[:, None]
    for row, ours in enumerate(gumbel_likelihood(torch.from_numpy(below))):
        location, scale = stats.gumbel_r.fit(-below[row])
        assert float(ours) == pytest.approx(stats.gumbel_r.logpdf(-below[row], location, scale).sum(), abs=1e-6)
