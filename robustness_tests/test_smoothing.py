"""Proved L2 radii of the smoothed classifier: a majority vote of the model under Gaussian noise.

The smoothed classifier is not the model itself, and needs one pass for each noisy copy that votes. So its radii are
never compared with the model's own adversarial or certified distances.
"""

import pytest

from metrics.statistics import compare, share
from robustness_tests.harness.worst import worst_of


@pytest.mark.about("model")
def test_smoothed_accuracy(candidate, reference, smoothed_radius, smoothed_images, norm, epsilon, thresholds, measured):
    """The smoothed candidate provably keeps its right class on enough images, within an L2 radius of epsilon.

    Randomized smoothing: each certificate holds with a probability of 99.9 %. An image counts as not certified if the
    vote is too close or the smoothed class is wrong. A failure means that the predictions of the model are not stable
    enough under Gaussian noise. It says nothing about the model without the vote.
    """
    certificates = [smoothed_radius(candidate, image, norm=norm) for image in smoothed_images]
    radii = {one.image: one.radius for one in certificates}
    held = sum(radius >= float(epsilon) for radius in radii.values())
    accuracy = share(held, len(certificates), thresholds.confidence)
    least = thresholds.epsilons(candidate.dataset, norm, "smoothed_accuracy").get(epsilon)
    measured(estimate=accuracy, threshold=least, images=len(certificates))
    measured(worst=worst_of({image: radius for image, radius in radii.items() if radius < float(epsilon)}))
    measured(condition=f"sigma {thresholds.smoothing_sigma:g}")
    if reference.name != candidate.name:
        theirs = [smoothed_radius(reference, image, norm=norm).radius for image in smoothed_images]
        measured(reference_value=sum(radius >= float(epsilon) for radius in theirs) / len(theirs))
    if least is None:
        pytest.skip(f"measured and not judged: no threshold file states smoothed_accuracy.{candidate.dataset}.{norm}")
    assert accuracy.value >= least, (
        f"smoothed with sigma {thresholds.smoothing_sigma:g}, {candidate.name} provably keeps the label of {held} of "
        f"{len(certificates)} images up to {norm} {epsilon} ({accuracy.value:.1%}), expected {least:.1%} or more"
    )


@pytest.mark.about("model")
def test_candidate_beats_reference_in_smoothed_radius(
    candidate, reference, norm, smoothed_radius, smoothed_images, thresholds, measured
):
    """The smoothed radii of the candidate are larger than those of the reference.

    A one-sided Wilcoxon signed-rank test on all images decides; the medians are reported beside it. Sampling stops once
    the largest stated radius is certified, so a larger radius counts as that one. An image without a certificate counts
    as 0. A failure means that the candidate is not better under Gaussian noise than the reference, or that too few
    images were measured to show it.
    """
    models = {model.name: model for model in (candidate, reference)}.values()
    of_models = [[smoothed_radius(model, image, norm=norm) for image in smoothed_images] for model in models]
    spent = [one for of_model in of_models for one in of_model]
    measured(forward=sum(one.forward for one in spent), backward=0, stored=all(one.stored for one in spent))
    if len(of_models) == 1:
        pytest.skip(f"nothing to compare: no other model than {candidate.name} was given")
    largest = max(of_models[0][0].radii)
    ours, theirs = ([min(one.radius, largest) for one in of_model] for of_model in of_models)
    result = compare(ours, theirs, thresholds.confidence)
    measured(value=result.candidate, reference_value=result.reference, images=result.pairs, p_value=result.p_value)
    measured(difference=result.difference, threshold=thresholds.largest_p_value)
    measured(condition=f"sigma {thresholds.smoothing_sigma:g}")
    measured(worst=worst_of({image: a - b for image, a, b in zip(smoothed_images, ours, theirs, strict=True)}))
    if ours == theirs and min(ours) == largest:
        pytest.skip(f"nothing to compare: both are certified up to {largest:g} everywhere; state larger epsilons")
    assert result.p_value <= thresholds.largest_p_value, (
        f"smoothed radii of {candidate.name}, median {result.candidate:.4f}, are not shown to be larger than those of "
        f"{reference.name}, median {result.reference:.4f}: p = {result.p_value:.3f} on {result.pairs} images, expected "
        f"{thresholds.largest_p_value} or less"
    )
