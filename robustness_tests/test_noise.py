"""Accuracy of candidate and reference under random noise, which no attacker chooses."""

import math

import pytest

from metrics import Status
from metrics.statistics import mean_share, share
from robustness_tests.harness.worst import worst_of
from robustness_tests.judgements import assert_right_more_often


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
    measured({"epsilons": epsilons})
    measured(worst=worst_of({image: a - b for image, a, b in zip(images, ours, theirs, strict=True)}))
    if ours == theirs and min(ours) == 1:
        measured(value=1.0, reference_value=1.0, images=len(ours), unit="share")
        pytest.skip(
            f"nothing to compare: both are always right; state larger epsilons in [noise_accuracy.{run.dataset}]"
        )
    what = f"noisy ({norm} {', '.join(epsilons)})"
    assert_right_more_often(ours, theirs, (candidate.name, reference.name), what, thresholds, measured)


@pytest.mark.about("model")
def test_failure_probability(candidate, failure_probability, noisy_images, run, norm, epsilon, thresholds, measured):
    """For enough images, noise of norm epsilon changes the label with a probability below the stated one.

    The noise is uniform in the ball. Multilevel splitting shows probabilities far below one in the number of passes.
    Images that the model misclassifies without noise do not count. A failure means that the model gives wrong answers
    in rare cases of noise, which plain draws do not find.
    """
    stated = thresholds.epsilons(run.dataset, norm, "failure_probability")
    largest = stated[epsilon]
    found = [failure_probability(candidate, image, norm=norm) for image in noisy_images]
    upper = {one.image: one.upper_at(epsilon) for one in found if one.status is not Status.MISCLASSIFIED}
    if epsilon == next(iter(stated)):
        measured(forward=sum(one.forward for one in found), backward=0, stored=all(one.stored for one in found))
    if not upper:
        pytest.skip("no image is classified correctly")
    rare = share(sum(bound < largest for bound in upper.values()), len(upper), thresholds.confidence)
    measured({"largest": largest, "probabilities": list(upper.values())}, estimate=rare, images=len(upper))
    measured(threshold=thresholds.rare_failures, condition=f"below {largest:g}")
    # Without a probability, the margin is flat: that is the worst.
    failed = {image: bound for image, bound in upper.items() if not bound < largest}
    measured(worst=worst_of({image: -math.inf if math.isnan(bound) else -bound for image, bound in failed.items()}))
    assert rare.value >= thresholds.rare_failures, (
        f"{candidate.name} is shown to fail with a probability below {largest:g} for {rare.value:.1%} of {len(upper)} "
        f"images, noise in the {norm} ball of {epsilon}, expected {thresholds.rare_failures:.1%} or more"
    )


def mean_over(of_image):
    """The share of right labels of an image over all strengths, noise in the ball."""
    return sum(of_image.ball.tolist()) / len(of_image.epsilons)
