"""Functions shared by several properties that judge the numbers of images."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import hypothesis
import torch
from hypothesis import strategies
from torch import Tensor

from metrics import Status
from metrics.norms import Norm, vector_norm
from metrics.statistics import compare
from robustness_tests.harness.fixtures.adversarial_distance import DistanceOfImage
from robustness_tests.harness.fixtures.clever import ScoreOfImage
from robustness_tests.harness.measured import Measure
from robustness_tests.harness.subject import Subject
from robustness_tests.harness.thresholds import Thresholds

ROUNDING = 1e-5
"""Relative tolerance: on a linear network, CLEVER and the distance are equal, and rounding must not decide."""


def verdict(score: ScoreOfImage, distance: DistanceOfImage) -> tuple[bool | None, str]:
    """Whether a CLEVER score and an adversarial distance agree: True, False, or None with the reason not to judge.

    A score at the radius means "at least the radius": a smaller distance contradicts it, and a larger one does not
    confirm it.
    """
    if Status.MISCLASSIFIED in (score.status, distance.status):
        return None, "misclassified: there is no CLEVER score"
    if distance.status is Status.CENSORED:
        return None, "censored: no adversarial example was found that could contradict the score"
    if score.status is Status.UNAVAILABLE:
        return False, f"no CLEVER score: {masking(score)}, so the model hides its gradients"
    if score.score > distance.distance * (1 + ROUNDING):
        return False, f"CLEVER {score.score:.4f} is above the adversarial distance {distance.distance:.4f}"
    if score.status is Status.SATURATED:
        return None, f"CLEVER is at its radius {score.radius:g}, so it is only known to be at least that"
    return True, ""


def masking(score: ScoreOfImage) -> str:
    """Why there is no score, in words."""
    if score.zero_gradient:
        return "half of the sampled gradients or more are zero"
    if score.broken_gradient:
        return "a sampled gradient is not finite"
    return "a margin changes much faster than the sampled gradients allow"


SCORED = (Status.ESTIMATED, Status.SATURATED)


def directions(shape: Sequence[int], norm: Norm) -> strategies.SearchStrategy[Tensor]:
    """Draw perturbations of norm 1: of a few values, or of all values from a seed. The simplest changes one value."""
    size = torch.Size(shape).numel()
    few = strategies.dictionaries(strategies.integers(0, size - 1), strategies.sampled_from([1.0, -1.0]), min_size=1)
    return strategies.one_of(few, strategies.integers(0, 2**32 - 1)).map(lambda drawn: direction(drawn, shape, norm))


def direction(drawn: dict[int, float] | int, shape: Sequence[int], norm: Norm) -> Tensor:
    """The perturbation of norm 1 that hypothesis has drawn: {position: sign}, or the seed of a random one."""
    values = torch.zeros(torch.Size(shape).numel())
    if isinstance(drawn, dict):
        values[list(drawn)] = torch.tensor(list(drawn.values()))
    else:
        values = torch.randn(len(values), generator=torch.Generator().manual_seed(drawn))
        values = values.sign() if norm == "linf" else values
    values = values.view(1, *shape)
    return values / vector_norm(values, norm)


def at_least(score: ScoreOfImage) -> float:
    """The score for a comparison: one at the radius is larger than any below."""
    return float("inf") if score.status is Status.SATURATED else score.score


def is_robust(distance: DistanceOfImage, epsilon: float) -> bool:
    """Whether an image is classified correctly, and no attack has changed its label within norm epsilon."""
    return distance.status is not Status.MISCLASSIFIED and distance.distance > epsilon


def position_in_bracket(score: ScoreOfImage, lower: float, upper: float) -> str:
    """Where a CLEVER score is: above, inside or below the bracket. A score at its radius is never below."""
    if score.score > upper * (1 + ROUNDING):
        return "above"
    return "below" if score.status is Status.ESTIMATED and score.score < lower else "inside"


def assert_labels_are_kept(
    model: Subject, radii: dict[int, float], norm: Norm, *, examples: int, seed: int, what: str
) -> None:
    """Assert that no perturbation drawn by hypothesis changes a label. Hypothesis shrinks one that does.

    Args:
        model: the model.
        radii: norm of the perturbation of each image, by dataset index.
        norm: norm of the perturbations.
        examples: number of directions to draw; each is tried on all images.
        seed: seed of the draws.
        what: description of the radii, for the message.
    """
    shape = model.image(next(iter(radii))).shape

    @hypothesis.seed(seed)
    @hypothesis.settings(max_examples=examples, deadline=None, database=None, print_blob=False)
    @hypothesis.given(directions(shape, norm))
    def keeps_labels(step: Tensor) -> None:
        changed = changed_by(model, radii, step)
        values = int((step != 0).sum())
        assert not changed, (
            f"a {norm} perturbation of {values} values, {what}, changes the label of image "
            f"{', '.join(map(str, changed[:5]))}"
        )

    keeps_labels()


def changed_by(model: Subject, radii: dict[int, float], step: Tensor) -> list[int]:
    """The images whose label a perturbation changes: `step`, of norm 1, times the radius of each image."""
    changed = []
    for rows in batched(radii, 100):
        images = torch.stack([model.image(row) for row in rows])
        radius = torch.tensor([radii[row] for row in rows]).view(-1, 1, 1, 1)
        predicted = model.logits((images + radius * step).clamp(0, 1)).argmax(dim=1).tolist()
        changed += [row for row, label in zip(rows, predicted, strict=True) if label != model.label(row)]
    return changed


def batched(rows: Iterable[int], size: int) -> Iterator[list[int]]:
    """Lists of `size` rows, in order; the last may be shorter."""
    remaining = iter(rows)
    while some := list(islice(remaining, size)):
        yield some


def assert_candidate_is_larger(
    ours: Sequence[float],
    theirs: Sequence[float],
    names: tuple[str, str],
    what: str,
    thresholds: Thresholds,
    measured: Measure,
) -> None:
    """Record the medians of candidate and reference, and fail unless the first is larger by more than chance explains.

    Args:
        ours: values of the candidate.
        theirs: values of the reference, image by image.
        names: of both.
        what: the values, in words.
        thresholds: confidence, and the largest p-value.
        measured: the fixture.
    """
    result = compare(ours, theirs, thresholds.confidence)
    measured(value=result.candidate, reference_value=result.reference, images=result.pairs, p_value=result.p_value)
    measured(difference=result.difference, threshold=thresholds.largest_p_value)
    candidate, reference = names
    assert result.candidate > result.reference, (
        f"median {what} {result.candidate:.4f} of {candidate}, "
        f"expected more than {result.reference:.4f} of {reference} ({result.pairs} images)"
    )
    assert result.p_value <= thresholds.largest_p_value, (
        f"the {what} of {candidate} is not shown to be larger than that of {reference}: p = {result.p_value:.3f}, "
        f"median difference {result.difference.value:+.4f} on {result.pairs} images, "
        f"expected p of {thresholds.largest_p_value} or less"
    )


def assert_right_more_often(
    ours: Sequence[float],
    theirs: Sequence[float],
    names: tuple[str, str],
    what: str,
    thresholds: Thresholds,
    measured: Measure,
) -> None:
    """Record the mean shares of right labels of both models, and fail unless the first is larger by more than chance.

    Args:
        ours: share of right labels of the candidate, image by image.
        theirs: of the reference, for the same images.
        names: of candidate and reference.
        what: the images that the shares are of: "noisy", for example.
        thresholds: of the run.
        measured: the fixture.
    """
    result = compare(ours, theirs, thresholds.confidence)
    means = [sum(shares) / len(shares) for shares in (ours, theirs)]
    measured(value=means[0], reference_value=means[1], images=result.pairs, p_value=result.p_value)
    measured(threshold=thresholds.largest_p_value, unit="share")
    assert means[0] > means[1], (
        f"{means[0]:.1%} of {what} images are right with {names[0]}, expected more than the {means[1]:.1%} of "
        f"{names[1]} ({result.pairs} images)"
    )
    assert result.p_value <= thresholds.largest_p_value, (
        f"the share of {names[0]} is not shown to be larger than that of {names[1]}: "
        f"p = {result.p_value:.3f} on {result.pairs} images, expected {thresholds.largest_p_value} or less"
    )
