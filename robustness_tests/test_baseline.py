"""No number has become worse since the last release (`--baseline`) by more than the tolerance in thresholds.toml.

These tests are collected only with a baseline. Each one compares the candidate with the candidate of that run, image by
image, on the images that both runs have. The measured change alone decides. Its interval shows which changes other
images might have given.
"""

import pytest

from metrics import Status
from metrics.statistics import compare, mean_difference
from robustness_tests.harness.worst import difference, worst_of
from robustness_tests.judgements import SCORED, at_least, is_robust, verdict


def assert_median_has_not_fallen(pairs, what, baseline, thresholds, measured):
    """Record the medians of {image: (now, then)}, and fail if the one of now is lower by more than the tolerance."""
    if not pairs:
        pytest.skip(f"no image has a {what} in both runs")
    now, then = zip(*pairs.values(), strict=True)
    measured(worst=worst_of({image: difference(*pair) for image, pair in pairs.items()}))
    result = compare(now, then, thresholds.confidence)
    least = (1 - thresholds.baseline_median) * result.reference
    measured(value=result.candidate, baseline_value=result.reference, images=result.pairs, unit="distance")
    measured(difference=result.difference, threshold=least)
    assert result.candidate >= least, (
        f"median {what} {result.candidate:.4f}, in the last release ({baseline.model}) {result.reference:.4f} on the "
        f"same {result.pairs} images: lower by {1 - result.candidate / result.reference:.1%}, "
        f"expected {thresholds.baseline_median:.1%} or less"
    )


def assert_share_has_not_fallen(pairs, what, baseline, thresholds, measured):
    """Record the means of {image: (now, then)}, bools or shares; fail if that of `now` is lower than tolerated."""
    if not pairs:
        pytest.skip(f"no image was measured in both runs for the {what}")
    sides = list(zip(*pairs.values(), strict=True))
    now, then = (sum(side) / len(pairs) for side in sides)
    change = mean_difference(*sides, thresholds.confidence)
    measured(worst=worst_of({image: float(a) - float(b) for image, (a, b) in pairs.items() if a < b}))
    least = then - thresholds.baseline_share
    measured(value=now, baseline_value=then, images=len(pairs), unit="share", threshold=max(0.0, least))
    measured(difference=change)
    # Shares are multiples of 1 / N in floating point.
    assert now >= least - 1e-9, (
        f"{what} {now:.1%}, in the last release ({baseline.model}) {then:.1%} on the same {len(pairs)} images: lower "
        f"by {then - now:.1%}, expected {thresholds.baseline_share:.1%} or less"
    )


@pytest.mark.about("release")
def test_clean_accuracy_since_baseline(candidate, run, baseline, thresholds, measured):
    """The candidate classifies about as many clean images correctly as in the last release."""
    right, then = candidate.right(run.accuracy_images), baseline.right()
    pairs = {image: (right[image], then[image]) for image in right if image in then}
    assert_share_has_not_fallen(pairs, "clean accuracy", baseline, thresholds, measured)


@pytest.mark.about("release")
def test_adversarial_distance_since_baseline(
    candidate, norm, adversarial_distance, images, baseline, thresholds, measured
):
    """The median adversarial distance has not fallen, over the images that both releases classify correctly."""
    pairs = {
        image: (distance.distance, then)
        for image in images
        if (then := baseline.distance(norm, image))
        and (distance := adversarial_distance(candidate, image, norm=norm)).status is not Status.MISCLASSIFIED
    }
    assert_median_has_not_fallen(pairs, f"{norm} distance", baseline, thresholds, measured)


@pytest.mark.about("release")
def test_clever_since_baseline(candidate, norm, clever, images, baseline, thresholds, measured):
    """The median CLEVER score has not fallen, over the images that have one in both runs."""
    pairs = {
        image: (at_least(score), then)
        for image in images
        if (then := baseline.clever(norm, image)) is not None
        and (score := clever(candidate, image, norm=norm)).status in SCORED
    }
    assert_median_has_not_fallen(pairs, f"{norm} CLEVER score", baseline, thresholds, measured)


@pytest.mark.about("release")
def test_certified_distance_since_baseline(
    candidate, norm, certified_distance, certified_images, baseline, thresholds, measured
):
    """The median certified distance has not fallen, over the images that have one in both runs."""
    pairs = {
        image: (certificate.distance, then)
        for image in certified_images
        if (then := baseline.certified(norm, image))
        and (certificate := certified_distance(candidate, image, norm=norm)).status is Status.CERTIFIED
    }
    assert_median_has_not_fallen(pairs, f"certified {norm} distance", baseline, thresholds, measured)


@pytest.mark.about("release")
def test_robust_accuracy_since_baseline(
    candidate, norm, epsilon, adversarial_distance, images, baseline, thresholds, measured
):
    """The candidate keeps the right label of about as many images, up to norm epsilon, as in the last release."""
    pairs = {
        image: (is_robust(adversarial_distance(candidate, image, norm=norm), float(epsilon)), then > float(epsilon))
        for image in images
        if (then := baseline.distance(norm, image)) is not None
    }
    assert_share_has_not_fallen(pairs, f"robust accuracy at {norm} {epsilon}", baseline, thresholds, measured)


@pytest.mark.about("release")
def test_noise_accuracy_since_baseline(
    candidate, norm, epsilon, noise_accuracy, images, baseline, thresholds, measured
):
    """The candidate classifies about as many images correctly, with noise up to norm epsilon, as the last release."""
    shares = {image: noise_accuracy(candidate, image, norm=norm).at(epsilon, "ball") for image in images}
    then = baseline.noise_shares(norm, epsilon)
    pairs = {image: (shares[image], share) for image, share in zip(images, then, strict=False)}
    assert_share_has_not_fallen(pairs, f"noise accuracy at {norm} {epsilon}", baseline, thresholds, measured)


@pytest.mark.about("release")
def test_share_of_clever_below_distance_since_baseline(
    candidate, norm, clever, adversarial_distance, images, baseline, thresholds, measured
):
    """For about as many images as in the last release, CLEVER is not above the adversarial distance."""
    agreed = {"passed": True, "xfailed": False}
    pairs = {
        image: (now, agreed[then])
        for image in images
        if (then := baseline.images.get((norm, image), {}).get("clever_verdict")) in agreed
        for now, _ in [verdict(clever(candidate, image, norm=norm), adversarial_distance(candidate, image, norm=norm))]
        if now is not None
    }
    assert_share_has_not_fallen(pairs, f"share of {norm} CLEVER scores that hold", baseline, thresholds, measured)
