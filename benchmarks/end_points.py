"""Other estimators of an end-point, to compare with: none of them is used by the suite."""

import math
import warnings

import numpy as np
import torch
from scipy import optimize, special, stats

from metrics import extreme_value


def penalised_likelihood(maxima):
    """Ours."""
    return extreme_value.end_point(maxima).estimate


def bounded_likelihood(maxima):
    """The same without the prior: maximum likelihood with the shape bounded."""
    largest, spread = maxima.amax(dim=1), maxima.amax(dim=1) - maxima.amin(dim=1)
    below = (largest[:, None] - maxima) / spread[:, None]
    gaps = torch.logspace(-4, 2, 200, dtype=maxima.dtype).expand(len(maxima), -1)
    likelihood, _ = extreme_value._likelihood(below, gaps, prior=False)  # noqa: SLF001  # our own, without its prior
    return largest + spread * gaps.gather(1, likelihood.argmax(dim=1, keepdim=True)).squeeze(1)


def l_moments(maxima):
    """L-moments of the generalised extreme value distribution (Hosking, Wallis & Wood 1985); infinite if it has no
    end-point."""
    ordered = maxima.sort(dim=1).values.double()
    count = ordered.shape[1]
    rank = torch.arange(count, dtype=ordered.dtype)
    b0 = ordered.mean(dim=1)
    b1 = (ordered * rank / (count - 1)).mean(dim=1)
    b2 = (ordered * rank * (rank - 1) / ((count - 1) * (count - 2))).mean(dim=1)
    scale, skewness = 2 * b1 - b0, (6 * b2 - 6 * b1 + b0) / (2 * b1 - b0)
    c = 2 / (3 + skewness) - math.log(2) / math.log(3)
    k = 7.8590 * c + 2.9554 * c**2
    gamma = torch.from_numpy(special.gamma(1 + k.numpy()))
    alpha = scale * k / ((1 - 2**-k) * gamma)
    return torch.where(k > 0, b0 + alpha * gamma / k, torch.inf)


def moment(values, share=0.1):
    """Dekkers, Einmahl & de Haan 1989, from the largest tenth of the samples; infinite if there is no end-point."""
    top = max(10, int(share * values.shape[1]))
    largest = values.double().topk(top + 1, dim=1).values
    threshold = largest[:, -1:]
    logs = (largest[:, :-1] / threshold).log()
    first, second = logs.mean(dim=1), (logs**2).mean(dim=1)
    negative = 1 - 0.5 / (1 - first**2 / second)
    index = first + negative
    end = threshold.squeeze(1) * (1 + first * (1 - negative) / -index)
    return torch.where(index < 0, end.maximum(largest[:, 0]), torch.inf)


def original(maxima):
    """The authors' fit: scipy's three-parameter Weibull from seven starts, the one with the best p-value is kept.

    Rescaled to unit range, a penalty of 0.01 times the squared scale (theirs; meant for the shape), and the largest
    maximum where no fit reaches p = 0.001.
    """
    largest, spread = maxima.max(), maxima.max() - maxima.min()
    below = (largest - maxima) / spread
    best = (1e-3, 0.0)
    for start in (0.1, 1, 5, 10, 20, 50, 100):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            location, scale = stats.weibull_min._fit_loc_scale_support(below, start)  # noqa: SLF001  # scipy's own start
            found = optimize.fmin(_penalised, (start, location, scale), (below,), disp=False, maxfun=4000, maxiter=2000)
        if math.isfinite(_penalised(found, below)):
            p_value = stats.kstest(below, stats.weibull_min(*found).cdf).pvalue
            best = max(best, (p_value, -found[1]))
    return largest + best[1] * spread, best[0] > 1e-3


def _penalised(parameters, below):
    shape, location, scale = parameters
    if shape <= 0 or scale <= 0 or (below <= location).any():
        return np.inf
    return -stats.weibull_min.logpdf(below, shape, location, scale).sum() + 0.01 * scale**2
