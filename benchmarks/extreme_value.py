"""End-points of known distributions and of real gradient norms: bias, spread and coverage, beside other estimators.

    python benchmarks/extreme_value.py

A minute on one core. Maxima of real gradient norms are those of `clever_reference.npz`, see `clever.py`.
"""

from pathlib import Path

import numpy as np
import torch
from end_points import bounded_likelihood, l_moments, moment, original, penalised_likelihood
from tables import header, row

from metrics.extreme_value import end_point

REPEATS = 2000
DISTRIBUTIONS = {
    "1 + beta(4, 4) / 10": (lambda random, size: 1 + 0.1 * random.beta(4, 4, size), 1.1),
    "1 + beta(8, 8) / 10": (lambda random, size: 1 + 0.1 * random.beta(8, 8, size), 1.1),
    "beta(2, 2)": (lambda random, size: random.beta(2, 2, size), 1.0),
    "beta(2, 5)": (lambda random, size: random.beta(2, 5, size), 1.0),
}
BLOCKS = {"50 x 64": (50, 64), "40 x 24": (40, 24)}
SHAPES = (1.5, 3, 6, 12, 20, 30, 60)
REFERENCE = Path(__file__).with_name("clever_reference.npz")


def main():
    torch.set_num_threads(1)
    known_laws()
    exact_shapes()
    stopping()
    estimators()
    real_maxima()
    odd_maxima()


def samples(distribution, blocks, size, repeats=REPEATS):
    draw, _ = DISTRIBUTIONS[distribution]
    random = np.random.default_rng(0)
    parts = [draw(random, (repeats // 4, blocks, size)) for _ in range(4)]
    return torch.from_numpy(np.concatenate(parts))


def covered(found, end):
    return ((found.lower <= end) & (end <= found.upper)).double().mean()


def known_laws():
    header(
        "distribution",
        "samples",
        "mean / truth",
        "truth / estimate",
        "sd",
        "95 % interval covers",
        "largest sample / truth",
    )
    for title, (blocks, size) in BLOCKS.items():
        for distribution, (_, end) in DISTRIBUTIONS.items():
            maxima = samples(distribution, blocks, size).amax(dim=2)
            found = end_point(maxima)
            ratio = found.estimate / end
            means = f"{ratio.mean():.4f}", f"{(1 / ratio).mean():.4f}", f"{ratio.std():.4f}"
            row(distribution, title, *means, f"{covered(found, end):.1%}", f"{maxima.amax(dim=1).mean() / end:.4f}")


def exact_shapes():
    print("\nMaxima that are exactly reverse Weibull with end-point 1 and scale 0.1, 50 of them:\n")
    header("shape", "mean / truth", "95 % interval covers", "flagged no_finite_endpoint")
    for shape in SHAPES:
        exponential = np.random.default_rng(1).exponential(size=(REPEATS, 50))
        found = end_point(torch.from_numpy(1 - 0.1 * exponential ** (1 / shape)))
        flagged = f"{found.no_finite_endpoint.double().mean():.0%}"
        row(shape, f"{found.estimate.mean():.4f}", f"{covered(found, 1.0):.1%}", flagged)


def stopping(tolerance=0.05):
    """As `clever` stops: at half of the blocks if the interval is narrow enough, else at all."""
    print("\nStopping at 28 of 56 blocks, when the interval is within 5 %:\n")
    header("distribution", "95 % interval covers", "mean / truth", "blocks, mean")
    cases = [
        (f"{distribution}, blocks of 64", end, samples(distribution, 56, 64).amax(dim=2))
        for distribution, (_, end) in DISTRIBUTIONS.items()
    ]
    for shape, scale in ((2, 0.2), (2, 0.1), (6, 0.05), (15, 0.1), (15, 0.05)):
        exponential = np.random.default_rng(3).exponential(size=(REPEATS, 56))
        distribution = f"reverse Weibull, shape {shape}, scale {scale}"
        cases.append((distribution, 1.0, torch.from_numpy(1 - scale * exponential ** (1 / shape))))
    for distribution, end, maxima in cases:
        half, whole = end_point(maxima[:, :28]), end_point(maxima)
        early = half.estimate * (1 / half.lower - 1 / half.upper) / 2 <= tolerance
        inside = [((found.lower <= end) & (end <= found.upper)) for found in (half, whole)]
        estimate = torch.where(early, half.estimate, whole.estimate)
        covers = torch.where(early, *inside).double().mean()
        row(
            distribution,
            f"{covers:.1%}",
            f"{estimate.mean() / end:.4f}",
            f"{torch.where(early, 28.0, 56.0).mean():.0f}",
        )


def estimators(repeats=400):
    print(f"\n3,200 samples, {repeats} repeats; coverage of the others by 200 bootstrap resamples, 100 repeats:\n")
    header("distribution", "estimator", "median / truth", "mean", "sd", "infinite", "95 % interval covers")
    for distribution, (_, end) in DISTRIBUTIONS.items():
        drawn = samples(distribution, 50, 64, repeats)
        maxima, flat = drawn.amax(dim=2), drawn.flatten(1)
        rows = [
            ("penalised likelihood (ours)", penalised_likelihood(maxima), covered(end_point(maxima), end)),
            ("bounded likelihood, no prior", bounded_likelihood(maxima), bootstrapped(bounded_likelihood, maxima, end)),
            ("L-moments", l_moments(maxima), bootstrapped(l_moments, maxima, end)),
            ("moment, largest tenth", moment(flat), bootstrapped(moment, flat, end)),
        ]
        for name, estimate, coverage in rows:
            ratio = estimate / end
            finite = ratio[ratio.isfinite()]
            numbers = f"{ratio.median():.4f}", f"{finite.mean():.4f}", f"{finite.std():.4f}"
            row(distribution, name, *numbers, f"{ratio.isinf().double().mean():.1%}", f"{coverage:.1%}")


def bootstrapped(estimate, values, end, repeats=200):
    """Share of percentile intervals from bootstrap resamples that hold the end-point; of the first 100 problems."""
    values = values[:100]
    generator = torch.Generator().manual_seed(0)
    draws = []
    for _ in range(repeats):
        again = torch.randint(values.shape[1], values.shape, generator=generator)
        draws.append(estimate(values.gather(1, again)))
    levels = torch.tensor([0.025, 0.975], dtype=torch.double)
    lower, upper = torch.stack(draws).quantile(levels, dim=0, interpolation="nearest")
    return ((lower <= end) & (end <= upper)).double().mean()


def real_maxima():
    """50 of the 500 block maxima of real gradient norms, against the original's fit of all, where that is finite."""
    ratios = {estimate: [] for estimate in (penalised_likelihood, bounded_likelihood, l_moments)}
    largest, finite = [], 0
    for maxima in np.load(REFERENCE)["maxima"].astype(float):
        whole = end_point(torch.from_numpy(maxima)[None])
        end, fitted = original(maxima)
        if not fitted or bool(whole.no_finite_endpoint):
            continue
        finite += 1
        parts = torch.from_numpy(maxima).view(10, 50)
        largest.append((parts.amax(dim=1) / end - 1).abs())
        for estimate, values in ratios.items():
            values.append((estimate(parts) / end - 1).abs())
    print(
        f"\n50 of 500 real block maxima against the original's end-point of all, {finite} pairs where it is finite:\n"
    )
    header("estimator", "median difference", "90th percentile", "infinite")
    names = "penalised likelihood (ours)", "bounded likelihood, no prior", "L-moments", "largest maximum"
    for name, values in zip(names, [*ratios.values(), largest], strict=True):
        joined = torch.cat(values)
        upper = joined.quantile(0.9, interpolation="nearest")
        row(name, f"{joined.median():.2%}", f"{upper:.1%}", f"{joined.isinf().double().mean():.1%}")


def odd_maxima(fits=10_000):
    """Fits that return the largest maximum, or run away, and say nothing about it."""
    random = np.random.default_rng(2)
    distributions = [
        random.normal(1, 0.05, (fits // 4, 40, 24)).max(axis=2),
        random.gumbel(1, 0.1, (fits // 4, 40)),
        random.pareto(3, (fits // 4, 40, 24)).max(axis=2),
        np.round(random.beta(4, 4, (fits // 4, 40, 24)).max(axis=2), 2),
    ]
    silent = 0
    for maxima in map(torch.from_numpy, distributions):
        found = end_point(maxima)
        spread = maxima.amax(dim=1) - maxima.amin(dim=1)
        odd = (found.estimate <= maxima.amax(dim=1)) | (found.estimate > maxima.amax(dim=1) + 10 * spread)
        silent += int((odd & ~found.degenerate & ~found.no_finite_endpoint).sum())
    print(f"\nfits of {fits} that return the largest maximum or run away without a flag: {silent}")


if __name__ == "__main__":
    main()
