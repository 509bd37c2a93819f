"""The smallest eigenvalues of Hessians at many points at once, by Lanczos iterations: how fast a slope can grow."""

from collections.abc import Callable

import torch
from torch import Tensor


def curvatures(product: Callable[[Tensor], Tensor], start: Tensor, iterations: int) -> Tensor:
    """Return the largest -v.H v over unit vectors v for each of P symmetric matrices H, shape (P,).

    The result is 0 or more, and NaN where H v is not finite. The method is Lanczos' with full reorthogonalisation
    (Golub & Van Loan, section 10.1). The extreme eigenvalues of the tridiagonal matrix approach those of H from inside.
    They are equal after as many iterations as H has different eigenvalues.

    Args:
        product: function from vectors v, shape (P, d), to H v for each matrix.
        start: vectors that are not zero, shape (P, d).
        iterations: number of products, limited to d.

    Example:
        >>> matrices = torch.diag_embed(torch.tensor([[3.0, -2.0, 1.0]]))
        >>> product = lambda vectors: (matrices @ vectors[:, :, None]).squeeze(2)
        >>> curvatures(product, torch.ones(1, 3), iterations=3)
        tensor([2.0000])
    """
    count, size = start.shape
    steps = min(iterations, size)
    tridiagonal = torch.zeros(count, steps, steps, dtype=start.dtype, device=start.device)
    vectors = [start / start.norm(dim=1, keepdim=True)]
    for step in range(steps):
        image = product(vectors[step])
        tridiagonal[:, step, step] = (image * vectors[step]).sum(dim=1)
        scale = image.norm(dim=1)
        if step + 1 == steps:
            break
        basis = torch.stack(vectors, dim=1)
        for _ in range(2):  # the rounding left by a single turn would grow
            image = image - ((basis @ image[:, :, None]) * basis).sum(dim=1)
        rest = image.norm(dim=1)
        # Nothing left but rounding: the rest of the matrix stays zero, which changes no curvature above 0.
        rest = torch.where(rest > 100 * torch.finfo(start.dtype).eps * scale, rest, 0)
        tridiagonal[:, step, step + 1] = tridiagonal[:, step + 1, step] = rest
        vectors.append(torch.where(rest[:, None] > 0, image / rest.clamp_min(1e-30)[:, None], 0))
    finite = tridiagonal.flatten(1).isfinite().all(dim=1)
    smallest = torch.linalg.eigvalsh(torch.where(finite[:, None, None], tridiagonal, 0))[:, 0]
    return torch.where(finite, (-smallest).clamp_min(0), torch.nan)
