"""The exact distance: the true minimal distance of small ReLU networks, by mixed-integer programming."""

import math
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from metrics.adversarial_distance import adversarial_distance
from metrics.certified_distance import certified_distance, checked_program, clean_logits
from metrics.checks import check_choice, check_count, check_number
from metrics.linear_bounds import Ball, Bounds, Program, Unsupported, bounds_of, least_margins
from metrics.mixed_integer import Layer, layers_of, logits_of, nearest_of_target
from metrics.norms import Norm
from metrics.passes import Model, check_images, check_model, differentiating, margin, rounding_slack
from metrics.status import Status

EXACT_NORMS: tuple[Norm, ...] = ("linf",)
TOLERANCE = 1e-6
"""How far HiGHS lets a constraint be violated: its results are accurate up to this."""

CONFIRMED = 1e-3
"""How much larger the distance of the confirmed counterexample may be than that of the solver's solution, relative to
the former."""

PUSHES = (0.0, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3)
"""Relative lengthenings of the solver's perturbation, tried in turn until the model misclassifies the image."""


@dataclass(frozen=True)
class ExactDistances:
    """The exact distances of N images; every tensor is on the device of the images.

    Attributes:
        distance: the L-infinity norm of the smallest perturbation that changes the class, shape (N,). It is 0 where the
            image is misclassified, and NaN where the distance is not known.
        lower: a lower bound of the distance, shape (N,): the certified distance, or the solver's bound minus its
            tolerance. NaN where the solver was not run.
        upper: an upper bound of the distance, shape (N,): the distance of `adversarial`. NaN where the solver was not
            run, infinite where no such image was found.
        adversarial: the nearest image that the model itself misclassified, shape (N, C, H, W); the clean image where
            there is none.
        status: `Status` numbers, shape (N,): exact, misclassified, censored (the time limit was hit, and only the
            bracket is known) or unavailable.
        seconds: time spent on each image, shape (N,).
        reasons: why there is no exact distance, one for each image; empty where there is one, or where the image is
            misclassified.
    """

    distance: Tensor
    lower: Tensor
    upper: Tensor
    adversarial: Tensor
    status: Tensor
    seconds: Tensor
    reasons: tuple[str, ...]


def exact_distance(
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    norm: Norm = "linf",
    time_limit: float = 60.0,
    patience: int | None = None,
    adversarial: Tensor | None = None,
    certified: Tensor | None = None,
    seed: int = 0,
) -> ExactDistances:
    """Find, for each image, the true distance to the nearest image of another class in the box [0, 1], in L-infinity.

    The network must be small, and a chain of affine layers and ReLUs: up to about 70 undecided ReLUs are practical. An
    attack gives an upper bound of the distance. Linear bounds on the ball of this radius decide most ReLUs and rule out
    targets. HiGHS solves a mixed-integer program for each remaining target.

    The results of the solver are checked: the image that it returns is classified again, in float64 and by the model; a
    target with a known adversarial example must be feasible; and no solution may be below the certified distance.

    Args:
        model: a deterministic callable from images to logits (N, K), in evaluation mode, normalisation inside.
        images: shape (N, C, H, W), float32 or float64, values in [0, 1].
        labels: true classes, int64, shape (N,).
        norm: "linf": HiGHS has no quadratic constraints.
        time_limit: seconds for each image. After that, only a bracket is known.
        patience: number of images in a row that may hit the time limit. After them, the remaining images are not tried
            and are unavailable. None tries all images.
        adversarial: adversarial images, exactly as an attack returned them, shape (N, C, H, W). If None, the function
            runs a thorough attack.
        certified: distances from `certified_distance`, shape (N,). If None, the function computes them.
        seed: seed of the attack that the function runs.

    Raises:
        ValueError: for bad input as for `certified_distance`, another norm, or bad `adversarial` or `certified`.

    Example:
        A linear model, whose distance is margin / dual norm of the weights: here 0.6 / (1 + 1).

        >>> weights = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> model = lambda images: images.flatten(1) @ weights.T
        >>> image = torch.tensor([0.9, 0.3]).view(1, 1, 1, 2)
        >>> result = exact_distance(model, image, torch.tensor([0]))
        >>> round(float(result.distance), 4)
        0.3
    """
    check_choice("norm", norm, EXACT_NORMS)
    check_number("time_limit", time_limit, above=0)
    patience = len(images) if patience is None else check_count("patience", patience, 1)
    check_images(images, labels)
    check_model(model)
    _check_given(images, labels, adversarial, certified)
    with differentiating(model), torch.no_grad():
        clean, _ = clean_logits(model, images, labels, len(images))
        try:
            program = checked_program(model, images, clean, len(images))
            solver = _Solver(model, program, layers_of(program), time_limit)
        except Unsupported as unsupported:
            wrong = (margin(clean, labels) <= 0).tolist()
            pairs = zip(images.detach().clone().split(1), wrong, strict=True)
            why = str(unsupported)
            return _result([_misclassified(one) if bad else _unavailable(one, why) for one, bad in pairs], images)
    if adversarial is None:
        adversarial = adversarial_distance(model, images, labels, norm="linf", effort="thorough", seed=seed).adversarial
    if certified is None:
        certified = certified_distance(model, images, labels, norm="linf").distance
    with differentiating(model), torch.no_grad():
        wrong = (margin(clean, labels) <= 0).tolist()
        lower = certified.double().nan_to_num(nan=0.0).tolist()
        found: list[_Found] = []
        in_a_row = 0
        for row, image in enumerate(images.detach().clone().split(1)):
            if wrong[row]:
                found.append(_misclassified(image))
            elif in_a_row >= patience:
                found.append(_unavailable(image, f"not tried: {patience} images before it hit the limit on time"))
            else:
                found.append(solver.solve(image, int(labels[row]), adversarial[row : row + 1], lower[row]))
                in_a_row = in_a_row + 1 if found[-1].status is Status.CENSORED else 0
        return _result(found, images)


def _check_given(images: Tensor, labels: Tensor, adversarial: Tensor | None, certified: Tensor | None) -> None:
    if adversarial is not None and getattr(adversarial, "shape", None) != images.shape:
        got = tuple(getattr(adversarial, "shape", ())) or type(adversarial).__name__
        raise ValueError(f"got adversarial images of shape {got}, expected {tuple(images.shape)}, one for each")
    if adversarial is not None:
        check_images(adversarial, labels)
        if adversarial.dtype != images.dtype:
            raise ValueError(f"got adversarial images of {adversarial.dtype}, expected {images.dtype}, as the images")
    if certified is not None and not isinstance(certified, Tensor):
        raise ValueError(f"got certified distances of {type(certified).__name__}, expected a torch.Tensor")
    if certified is not None and (certified.shape != labels.shape or not certified.is_floating_point()):
        got = f"{tuple(certified.shape)} of {certified.dtype}"
        raise ValueError(f"got certified distances {got}, expected floating-point numbers {tuple(labels.shape)}")
    if certified is not None and not ((certified >= 0) & (certified <= 1) | certified.isnan()).all():
        raise ValueError("got certified distances below 0 or above 1, expected distances within the box, or NaN")


@dataclass(frozen=True, eq=False)
class _Found:
    """The result of one image."""

    distance: float
    lower: float
    upper: float
    adversarial: Tensor
    status: Status
    reason: str = ""
    seconds: float = 0.0


def _misclassified(image: Tensor) -> _Found:
    return _Found(0.0, 0.0, 0.0, image, Status.MISCLASSIFIED)


def _unavailable(image: Tensor, why: str) -> _Found:
    return _Found(math.nan, math.nan, math.nan, image, Status.UNAVAILABLE, why)


def _distance(image: Tensor, other: Tensor) -> float:
    return float((other.double() - image.double()).abs().max())


class _Solver:
    """Solves one image after another for one network."""

    def __init__(self, model: Model, program: Program, layers: list[Layer], time_limit: float) -> None:
        self.model, self.program, self.layers, self.time_limit = model, program, layers, time_limit

    def solve(self, image: Tensor, label: int, adversarial: Tensor, certified: float) -> _Found:
        """The nearest image of any other class."""
        begun = time.monotonic()
        predicted = int(self.model(adversarial.clone()).argmax())
        attacked = predicted != label
        if attacked and certified > _distance(image, adversarial):
            return _unavailable(image, "the certified distance is above the adversarial one: one of both is wrong")
        best, least = (adversarial if attacked else image), certified
        # No two images of the box are further apart than 1.
        upper, first = (_distance(image, adversarial), predicted) if attacked else (1.0, None)
        flat = image.flatten().double().cpu().numpy()
        solved, lower, finished, wrong = math.inf, math.inf, True, ""
        for target in self._targets(image, label, upper, first):
            # Above what was found, so that a target with an adversarial example is feasible.
            cutoff = min(upper * 1.001 + 10 * TOLERANCE, 1.0)
            bounds = self._bounds(image, cutoff)
            left = self.time_limit - (time.monotonic() - begun)
            found = nearest_of_target(
                self.layers,
                [bounds.intervals[layer.node] for layer in self.layers[:-1]],
                flat,
                label,
                target,
                least=min(least, cutoff),
                cutoff=cutoff,
                seconds=left,
            )
            if target == first and found.lower > upper + 10 * TOLERANCE:
                # This includes a target that the solver calls infeasible: its bound is infinite.
                wrong = "the solver's bound is above the distance of an adversarial example"
            wrong = wrong or found.failure
            finished &= found.finished
            lower = min(lower, found.lower)
            if found.image is None:
                continue
            logits = logits_of(self.layers, found.image)
            if logits[label] - logits[target] > 1e-4 * np.abs(logits - logits[label]).max():
                wrong = "the solver's image is not of the class of the target"
                continue
            distance = float(np.abs(found.image - flat).max())
            solved = min(solved, distance)
            seen, reached = self._verified(image, label, found.image)
            attacked |= reached < math.inf
            if reached < upper:
                best, upper = seen, reached
        # Where no target is left, or none is within the cutoff, the attack's distance is the solution.
        lower = max(min(lower, upper) - 2 * TOLERANCE, least)
        seconds = time.monotonic() - begun
        if wrong or not attacked:
            reason = wrong or "no image of another class was found in the box"
            return _Found(math.nan, least, upper if attacked else math.inf, best, Status.UNAVAILABLE, reason, seconds)
        if finished and upper - min(solved, upper) > CONFIRMED * upper + 10 * TOLERANCE:
            wrong = "the model does not confirm the solver's image"
            return _Found(math.nan, least, upper, best, Status.UNAVAILABLE, wrong, seconds)
        if not finished:
            reason = f"the limit of {self.time_limit:g} s was hit"
            return _Found(math.nan, lower, upper, best, Status.CENSORED, reason, seconds)
        return _Found(min(max(min(solved, upper), lower), upper), lower, upper, best, Status.EXACT, "", seconds)

    def _bounds(self, image: Tensor, radius: float) -> Bounds:
        return bounds_of(self.program, Ball(image, image.new_full((1,), radius), "linf"))

    def _targets(self, image: Tensor, label: int, radius: float, first: int | None) -> list[int]:
        """Return the classes that linear bounds do not rule out within the radius, the most likely first."""
        labels = torch.tensor([label], device=image.device)
        margins = least_margins(self._bounds(image, radius), labels)[0]
        others = torch.cat([torch.arange(label), torch.arange(label + 1, len(margins) + 1)]).tolist()
        left = [
            (target != first, margin, target)
            for target, margin in zip(others, margins.tolist(), strict=True)
            if margin <= 0
        ]
        return [target for _, _, target in sorted(left)]

    def _verified(self, image: Tensor, label: int, solution: np.ndarray) -> tuple[Tensor, float]:
        """Push the solver's image outwards until the model misclassifies it, and return it with its distance."""
        towards = torch.from_numpy(solution).view_as(image).to(image.device)
        for push in PUSHES:
            point = (image.double() + (1 + push) * (towards - image.double())).clamp(0, 1).to(image.dtype)
            logits, own = self.model(point.clone()), torch.tensor([label], device=point.device)
            # By more than the rounding error: in another batch the last bits of a tie may differ.
            if float(margin(logits, own)) < -float(rounding_slack(logits, own, torch.finfo(logits.dtype).eps)):
                return point, _distance(image, point)
        return image, math.inf


def _result(found: list[_Found], images: Tensor) -> ExactDistances:
    def column(name: str) -> Tensor:
        return torch.tensor([getattr(one, name) for one in found], dtype=images.dtype, device=images.device)

    return ExactDistances(
        distance=column("distance"),
        lower=column("lower"),
        upper=column("upper"),
        adversarial=torch.cat([one.adversarial for one in found]),
        status=torch.tensor([int(one.status) for one in found], device=images.device),
        seconds=column("seconds"),
        reasons=tuple(one.reason for one in found),
    )
