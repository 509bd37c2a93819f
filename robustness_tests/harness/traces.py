"""How the best adversarial distance falls with the queries of an attack."""

import math

import torch
from torch import Tensor

from metrics import AdversarialDistances
from metrics.attacks import SearchPath
from robustness_tests.harness.run import TRACED


def traced(path: SearchPath, result: AdversarialDistances) -> dict[str, Tensor]:
    """How the best distances of N images fall with the queries of an attack.

    Returns:
        `trace`, shape (N, len(TRACED)): the distance after each number of queries in `TRACED`, or after the last query
        if there are fewer; infinite before anything is found. `halfway`, shape (N,): the distance after half of the
        queries.
    """
    points = torch.full((len(result.distance), len(TRACED)), torch.inf, dtype=result.distance.dtype)
    halfway = torch.full((len(result.distance),), torch.inf, dtype=result.distance.dtype)
    for row, final in enumerate(result.distance.tolist()):
        if not 0 < final < math.inf:
            points[row], halfway[row] = final, final
            continue
        mine = path.image == row
        tried = torch.where(path.margin[mine] <= 0, path.distance[mine], torch.inf).cpu()
        # The point that is kept may have been pushed outwards a little when it was verified.
        best = tried.cummin(dim=0).values.clamp(min=final)
        best[-1] = final
        points[row] = best[[min(steps, len(best)) - 1 for steps in TRACED]]
        halfway[row] = best[(len(best) - 1) // 2]
    return {"trace": points, "halfway": halfway}
