"""The adversarial distance: the norm of the smallest perturbation that a set of attacks finds."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from metrics.attacks import EFFORTS, Attack, Effort, Search, SearchPath, descend, iterated_pgd, line_search
from metrics.batches import halving_batches
from metrics.checks import check_choice, check_count
from metrics.generators import generators_of
from metrics.norms import NORMS, Norm, vector_norm
from metrics.passes import (
    Model,
    Passes,
    check_images,
    check_model,
    check_targets,
    checked_logits,
    differentiating,
    margin,
)
from metrics.precision import PRECISIONS, Precision
from metrics.results import concatenate
from metrics.status import Status

METHODS = ("boundary-descent", "iterated-pgd")


@dataclass(frozen=True)
class AdversarialDistances:
    """The adversarial distances of N images; every tensor is on the device of the images.

    Attributes:
        distance: norm of `adversarial - image`, shape (N,), in units of the image range [0, 1]. It is 0 where the clean
            image is misclassified, and infinite where no adversarial image was found.
        adversarial: the adversarial images, shape (N, C, H, W), in [0, 1]; the clean image where there is none.
        status: `Status` numbers, shape (N,): attacked, misclassified or censored.
        attack: `Attack` numbers, shape (N,): the attack that found the adversarial image.
        bracket: length of the last bracket of the line search or bisection, shape (N,): the distance from `adversarial`
            to the nearest point tried on the same line that is not adversarial by more than the rounding error. It is 0
            where there is no adversarial image.
        forward: forward passes spent on each image, shape (N,).
        backward: backward passes spent on each image, shape (N,).
        path: every query, if `record_path` was given.
    """

    distance: Tensor
    adversarial: Tensor
    status: Tensor
    attack: Tensor
    bracket: Tensor
    forward: Tensor
    backward: Tensor
    path: SearchPath | None = None


def adversarial_distance(
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    norm: Norm,
    targets: Tensor | None = None,
    effort: str = "default",
    method: str = "boundary-descent",
    precision: Precision = "float32",
    seed: int | Sequence[int] = 0,
    batch_size: int = 100,
    record_path: bool = False,
) -> AdversarialDistances:
    """Find, for each image, the nearest adversarial image in the box [0, 1].

    The distance is an upper bound of the true minimal distance. Short descents to the boundaries of the nearest
    classes, and more descents from noisy restarts around the best point so far, end in several local minima. The best
    few points are refined, and a line search moves the best one back to the boundary. Where the descents find nothing,
    for example because the gradient is masked, the search tries random noise and random starting points. The best point
    of all queries counts. The model classifies it again at the end, exactly as it is returned, and its norm is the
    reported distance.

    The method "iterated-pgd" is the attack of the study: it takes small steps of fixed size until the label flips, then
    bisects the last step. On networks for CIFAR-10 its median distance is 15 to 30 % above the best known in
    L-infinity, 12 to 16 % above it in L2, and about four times as large in L1 (`benchmarks/README.md`). It finds
    nothing beyond the reach of its steps.

    Args:
        model: a deterministic callable from images to logits (N, K), in evaluation mode, normalisation inside.
        images: shape (N, C, H, W), float32 or float64, values in [0, 1].
        labels: true classes, int64, shape (N,).
        norm: "linf", "l2" or "l1".
        targets: target class of each adversarial image, int64, shape (N,); any wrong class by default. With targets, an
            image counts as misclassified if the model already puts it into the target class.
        effort: "quick", "default" or "thorough": at most 40, 200 or 1,000 forward passes per image, and as many
            backward passes, where the descents find something. A compiled model takes a few forward passes more. With
            "iterated-pgd", at most 80, 400 or 2,000 steps.
        method: "boundary-descent" or "iterated-pgd".
        precision: the arithmetic in which the descents search: "float32" (that of the model and the images), "tf32" or
            "bf16". The model confirms what they find in its own precision, in which the line search and the
            verification are, too. Where nothing is confirmed, the image is attacked again in full precision.
            "iterated-pgd" takes "float32" only.
        seed: seed of the restarts and the noise: one for all images, or one for each. The same image with the same seed
            gets the same noise in any batch.
        batch_size: the most images that pass through the model at once. It is halved when memory runs out.
        record_path: whether to keep the margin and the norm of every query of the attacks.

    Returns:
        Distances, adversarial images, statuses, winning attacks, brackets, and passes spent.

    Raises:
        ValueError: for an unknown norm, effort or method; images outside [0, 1] or not finite; labels or targets that
            are not classes of the model; a model in training mode; outputs that are probabilities or not deterministic.

    Example:
        A linear model, whose distance is margin / dual norm of the weights: here 0.6 / (1 + 1).

        >>> weights = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> model = lambda images: images.flatten(1) @ weights.T
        >>> image = torch.tensor([0.9, 0.3]).view(1, 1, 1, 2)
        >>> result = adversarial_distance(model, image, torch.tensor([0]), norm="linf")
        >>> result.distance
        tensor([0.3000])
        >>> Status(int(result.status)).name
        'ATTACKED'
    """
    check_choice("norm", norm, NORMS)
    check_choice("effort", effort, EFFORTS)
    check_choice("method", method, METHODS)
    check_choice("precision", precision, PRECISIONS if method == "boundary-descent" else PRECISIONS[:1])
    batch_size = check_count("batch_size", batch_size, 1)
    check_images(images, labels)
    if targets is not None:
        check_targets(targets, labels)
    check_model(model)
    generators_of(seed, len(images))

    def measure(first: int, last: int) -> AdversarialDistances:
        part = slice(first, last)
        # New generators, so that a batch that is measured again, in halves, gets the same noise.
        generators = generators_of(seed, len(images))[part]
        wanted = None if targets is None else targets[part]
        return _measure(
            model, images[part], labels[part], wanted, norm, EFFORTS[effort], method, precision, generators, record_path
        )

    with differentiating(model):
        images, labels = images.detach().clone(), labels.clone()
        return _joined(halving_batches(measure, len(images), batch_size))


def _joined(parts: Sequence[tuple[int, AdversarialDistances]]) -> AdversarialDistances:
    whole = concatenate([replace(part, path=None) for _, part in parts])
    paths = [replace(part.path, image=part.path.image + first) for first, part in parts if part.path is not None]
    return replace(whole, path=concatenate(paths)) if paths else whole


def _measure(
    model: Model,
    images: Tensor,
    labels: Tensor,
    targets: Tensor | None,
    norm: Norm,
    effort: Effort,
    method: str,
    precision: Precision,
    generators: Sequence[torch.Generator],
    record_path: bool,  # noqa: FBT001  # handed on, with all the others
) -> AdversarialDistances:
    passes = Passes(model, len(images), images.device)
    everything = torch.arange(len(images), device=images.device)
    logits = checked_logits(passes, images, labels, everything, targets)
    search = Search(passes, images, labels, logits, norm, targets, record_path=record_path)
    there_already = margin(logits, labels) <= 0 if targets is None else margin(logits, targets) > 0
    bracket = torch.zeros_like(search.distance)
    rows = everything[~there_already]
    if method == "iterated-pgd":
        bracket[rows] = iterated_pgd(search, rows, steps=effort.iterated_pgd, bisections=effort.line_search)
    else:
        if precision != "float32":
            passes.precision = precision
            descend(search, rows, effort, generators)
            passes.precision = "float32"
            _confirm(search, rows)
        # In full precision; after a search in lower precision, the images where it found nothing.
        descend(search, rows[search.distance[rows].isinf()], effort, generators)
        rows = rows[search.distance[rows].isfinite()]
        bracket[rows] = line_search(search, rows, steps=effort.line_search)
    verified = _verify(search, everything[~there_already & search.distance.isfinite()], bracket)

    status = torch.full_like(labels, Status.CENSORED)
    status[there_already] = Status.MISCLASSIFIED
    status[verified] = Status.ATTACKED
    attacked = status == Status.ATTACKED
    nothing = torch.where(there_already, 0, torch.full_like(search.distance, torch.inf))
    return AdversarialDistances(
        distance=torch.where(attacked, search.distance, nothing),
        adversarial=torch.where(attacked.view(-1, 1, 1, 1), search.adversarial, images),
        status=status,
        attack=torch.where(attacked, search.attack, Attack.NONE),
        bracket=torch.where(attacked, bracket, 0),
        forward=passes.forward,
        backward=passes.backward,
        path=search.path(),
    )


CONFIRMING_PUSHES = (0.0, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""Relative lengthenings of a perturbation that was found in lower precision: margins there are wrong by up to a few
percent of the logits, and the nearest point of a search is the one that gains most from that."""


def _confirm(search: Search, rows: Tensor) -> None:
    """Forget the distances that were found in lower precision, and find the nearest points again on the same lines."""
    clean, kept, attack = search.images[rows], search.adversarial[rows].clone(), search.attack[rows].clone()
    found = search.distance[rows].isfinite()
    search.distance[rows], search.adversarial[rows], search.attack[rows] = torch.inf, clean, Attack.NONE
    for push in CONFIRMING_PUSHES:
        left = (found & search.distance[rows].isinf()).nonzero().flatten()
        if not len(left):
            return
        points = (clean[left] + (1 + push) * (kept[left] - clean[left])).clamp(0, 1)
        margins = search.query(points, rows[left], Attack.LINE_SEARCH)
        search.attack[rows[left]] = torch.where(margins <= 0, attack[left], Attack.NONE)


PUSHES = (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
"""Relative lengthenings of the perturbation, tried in turn until the kept image is adversarial again."""


def _verify(search: Search, rows: Tensor, bracket: Tensor) -> Tensor:
    """Classify the kept images again, together and one by one, and return the rows that are adversarial both times.

    Where rounding turns an image back to its class, the image is pushed outwards a little and its distance updated.
    """
    verified = []
    for push in PUSHES:
        if not len(rows):
            break
        clean = search.images[rows]
        points = (clean + (1 + push) * (search.adversarial[rows] - clean)).clamp(0, 1)
        points = points if push else search.adversarial[rows]
        fooled = search.is_adversarial(search.passes.logits(points, rows), rows)
        fooled &= search.is_adversarial(_one_by_one(search.passes, points, rows), rows)
        distance = vector_norm(points - clean, search.norm)
        search.adversarial[rows[fooled]] = points[fooled]
        bracket[rows[fooled]] += (distance - search.distance[rows])[fooled]
        search.distance[rows[fooled]] = distance[fooled]
        verified.append(rows[fooled])
        rows = rows[~fooled]
    return torch.cat(verified) if verified else rows


def _one_by_one(passes: Passes, points: Tensor, rows: Tensor) -> Tensor:
    return torch.cat([passes.logits(point, row) for point, row in zip(points.split(1), rows.split(1), strict=True)])
