"""Accuracy of candidate and reference under random noise, which no attacker chooses."""

import pytest

from metrics.statistics import compare, mean_share
from robustness_tests.harness.worst import worst_of


@pytest.mark.about("model")
def test_noise_accuracy(candidate, reference, noise_accuracy, images, norm, epsilon, run, thresholds, measured):
    """The candidate classifies enough images correctly when random noise of norm epsilon is added to them.

    Each image gets several draws of noise, uniform in the ball of radius epsilon, and again uniform on its surface.
    Noisy images are clamped to [0, 1]. The value is the mean over images of the share of right labels. A failure means
    that the model is not robust to noise that no attacker chooses, such as sensor noise. Noise accuracy says little
    about attacks.
    """
    of_images = [noise_accuracy(candidate, image, norm=norm) for image in images]
    shares = {sampling: [one.at(epsilon, sampling) for one in of_images] for sampling in ("ball", "sphere")}
    ball, sphere = (mean_share(shares[sampling], thresholds.confidence) for sampling in ("ball", "sphere"))
    least = thresholds.epsilons(run.dataset, norm, "noise_accuracy").get(epsilon)
    measured({"sphere": sphere.value, "shares": shares["ball"]}, estimate=ball, threshold=least, images=len(images))
    measured(worst=worst_of(dict(zip(images, shares["ball"], strict=True))))
    if reference.name != candidate.name:
        theirs = [noise_accuracy(reference, image, norm=norm).at(epsilon, "ball") for image in images]
        measured(reference_value=mean_share(theirs, thresholds.confidence).value)
    if least is None:
        pytest.skip(f"measured and not judged: no threshold file states noise_accuracy.{run.dataset}.{norm}")
    for where, accuracy in (("in the ball", ball), ("on the sphere", sphere)):
        assert accuracy.value >= least, (
            f"{candidate.name} classifies {accuracy.value:.1%} of noisy images correctly, noise {where} of {norm} "
            f"{epsilon}, expected {least:.1%} or more"
        )


@pytest.mark.about("model")
def test_candidate_beats_reference_in_noise_accuracy(
    candidate, reference, noise_accuracy, images, norm, run, thresholds, measured
):
    """The candidate is right more often than the reference when random noise is added to the same images.

    Each image has a share of right labels, over all strengths of the run. The test compares the means of this share
    over all images, including misclassified ones, and applies a one-sided Wilcoxon signed-rank test to the pairs. A
    failure means that the candidate is not more robust to noise than the reference, or that too few images were
    measured to show it.
    """
    models = {model.name: model for model in (candidate, reference)}.values()
    of_models = [[noise_accuracy(model, image, norm=norm) for image in images] for model in models]
    spent = [one for of_model in of_models for one in of_model]
    measured(forward=sum(one.forward for one in spent), backward=0, stored=all(one.stored for one in spent))
    if len(of_models) == 1:
        pytest.skip(f"nothing to compare: no other model than {candidate.name} was given")
    ours, theirs = ([mean_over(one) for one in of_model] for of_model in of_models)
    epsilons = [f"{epsilon:g}" for epsilon in of_models[0][0].epsilons]
    means = [sum(shares) / len(shares) for shares in (ours, theirs)]
    measured(worst=worst_of({image: a - b for image, a, b in zip(images, ours, theirs, strict=True)}))
    result = compare(ours, theirs, thresholds.confidence)
    measured(value=means[0], reference_value=means[1], images=result.pairs, p_value=result.p_value)
    measured({"epsilons": epsilons}, threshold=thresholds.largest_p_value, unit="share")
    if ours == theirs and min(ours) == 1:
        pytest.skip(
            f"nothing to compare: both are always right; state larger epsilons in [noise_accuracy.{run.dataset}]"
        )
    assert means[0] > means[1], (
        f"{means[0]:.1%} of noisy images are right with {candidate.name}, expected more than the {means[1]:.1%} of "
        f"{reference.name} ({norm} {', '.join(epsilons)}, {result.pairs} images)"
    )
    assert result.p_value <= thresholds.largest_p_value, (
        f"the share of {candidate.name} is not shown to be larger than that of {reference.name}: "
        f"p = {result.p_value:.3f} on {result.pairs} images, expected {thresholds.largest_p_value} or less"
    )


def mean_over(of_image):
    """The share of right labels of an image over all strengths, noise in the ball."""
    return sum(of_image.ball.tolist()) / len(of_image.epsilons)
