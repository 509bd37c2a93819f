"""CLEVER estimates a lower bound of the true distance; the adversarial distance is an upper bound. Do they agree?"""

import math

import pytest

from metrics import Status
from metrics.statistics import median, share
from robustness_tests.harness.clever_fit import clever_fit
from robustness_tests.harness.worst import worst_of
from robustness_tests.judgements import ROUNDING, verdict


@pytest.mark.about("numbers", feeds="clever")
def test_clever_below_distance(model, norm, image, clever, adversarial_distance, measured):
    """The CLEVER score of an image is not above the adversarial distance, at which an attack changes the label.

    This has to hold for most images. A violation proves that this score is wrong, and is reported as an expected
    failure (xfailed). `test_share_of_clever_below_distance` limits how many there may be.
    """
    score = clever(model, image, norm=norm)
    distance = adversarial_distance(model, image, norm=norm)
    measured(
        {
            "clever": score.score,
            "raw": score.raw,
            "radius": score.radius,
            "distance": distance.distance,
            "status": score.status,
            "target": score.target,
            "degenerate_fit": score.degenerate_fit,
            "no_finite_endpoint": score.no_finite_endpoint,
            "blocks": score.blocks,
            "zero_gradient": score.zero_gradient,
            "masked_gradient": score.masked_gradient,
        },
        lower=score.lower,
        upper=score.upper,
        p_value=score.p_value,
        forward=score.forward,
        backward=score.backward,
        stored=score.stored,
    )
    agrees, reason = verdict(score, distance)
    if agrees is None:
        pytest.skip(reason)
    if not agrees:
        pytest.xfail(reason)


@pytest.mark.about("numbers", feeds="clever_share")
def test_share_of_clever_below_distance(model, norm, clever, adversarial_distance, images, thresholds, measured):
    """For most images the CLEVER score is not above the adversarial distance.

    The test fails if the whole interval of the share is below the threshold, so that other images would show the same.
    A failure means that CLEVER cannot be trusted as a lower bound for this model: its gradients may be masked, or the
    samples miss the steep places. The report also shows the median of CLEVER / distance: a score that is far too small
    is never above the distance, but worthless.
    """
    pairs = [(clever(model, image, norm=norm), adversarial_distance(model, image, norm=norm)) for image in images]
    judged = [(pair, agrees) for pair in pairs for agrees, _ in [verdict(*pair)] if agrees is not None]
    if not judged:
        pytest.skip("no image has both a CLEVER score below its radius and an adversarial distance")
    below = share(sum(agrees for _, agrees in judged), len(judged), thresholds.confidence)
    ratios = [score.score / distance.distance for (score, distance), _ in judged if score.status is Status.ESTIMATED]
    least = thresholds.clever_below_distance
    measured(estimate=below, threshold=least, images=len(judged), judged_by="interval")
    wrong = [pair for pair, agrees in judged if not agrees]
    # The image with the largest score / distance comes first; a missing score counts as the worst.
    ratios_of_wrong = {score.image: -score.score / distance.distance for score, distance in wrong}
    measured(worst=worst_of({image: -math.inf if math.isnan(one) else one for image, one in ratios_of_wrong.items()}))
    measured(median_ratio=median(ratios, thresholds.confidence).value if ratios else None)
    measured(
        {
            "saturated": sum(score.status is Status.SATURATED for score, _ in pairs),
            "unavailable": sum(score.status is Status.UNAVAILABLE for score, _ in pairs),
            "no_finite_endpoint": sum(score.no_finite_endpoint for score, _ in pairs),
        }
    )
    estimated = [pair for pair, _ in judged if pair[0].status is Status.ESTIMATED]
    if estimated:
        score, distance = max(estimated, key=lambda pair: pair[0].score / pair[1].distance)
        measured({"fit": clever_fit(score, distance.distance)})
    assert below.upper >= least, (
        f"CLEVER is not above the adversarial {norm} distance for {below.value:.1%} of {len(judged)} images "
        f"of {model.name} ({below.lower:.1%} to {below.upper:.1%}), expected {least:.1%} or more"
    )


@pytest.mark.about("numbers", feeds="published_clever_share")
def test_share_of_published_clever_below_distance(
    model, norm, published_clever, adversarial_distance, images, thresholds, measured
):
    """The same share for CLEVER as it was published: its samples are random points of the ball.

    This is a comparison, and fails only if your threshold file states a least share. Random points miss the steep
    places of many networks, and then the published score is above the distance more often than the score of this suite.
    """
    judged, agree = [], []
    for image in images:
        score, distance = published_clever(model, image, norm=norm), adversarial_distance(model, image, norm=norm)
        agrees, _ = verdict(score, distance)
        if agrees is not None:
            agree.append(agrees)
            judged.append((score, distance.distance))
    if not judged:
        pytest.skip("no image has both a published CLEVER score below its radius and an adversarial distance")
    below = share(sum(agree), len(agree), thresholds.confidence)
    ratios = [score.score / distance for score, distance in judged if score.status is Status.ESTIMATED]
    least = thresholds.published_clever_below_distance
    measured(estimate=below, threshold=least, images=len(judged), judged_by="interval")
    measured(median_ratio=median(ratios, thresholds.confidence).value if ratios else None)
    assert least is None or below.upper >= least, (
        f"published CLEVER is not above the adversarial {norm} distance for {below.value:.1%} of {len(judged)} images "
        f"of {model.name} ({below.lower:.1%} to {below.upper:.1%}), expected {least:.1%} or more"
    )


@pytest.mark.about("suite")
def test_anchored_clever_below_distance(
    model, norm, anchored_clever, adversarial_distance, images, thresholds, measured
):
    """Anchored CLEVER, with gradients on the way to the adversarial example, is not above the adversarial distance.

    Hard, and true by construction: a failure is a bug of this suite, not of the model. Read the median of anchored
    CLEVER / distance instead of the share. Compared with the median for the published score, it shows how much steeper
    the network is towards an adversarial example than at random points.
    """
    every = [
        (anchored_clever(model, image, norm=norm), adversarial_distance(model, image, norm=norm)) for image in images
    ]
    pairs = [(score, distance.distance) for score, distance in every if math.isfinite(score.score)]
    if not pairs:
        pytest.skip("no image has both a CLEVER score and an adversarial example")
    above = [score.image for score, distance in pairs if score.score > distance * (1 + ROUNDING)]
    measured(value=1 - len(above) / len(pairs), images=len(pairs))
    measured(median_ratio=median([score.score / distance for score, distance in pairs], thresholds.confidence).value)
    assert not above, f"anchored CLEVER is above the adversarial {norm} distance for image {above[0]}, expected none"
