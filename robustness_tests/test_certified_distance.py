"""Proved lower bounds: they hold, they bracket the true distance together with attacks, and CLEVER is in between."""

import math

import pytest

from metrics import Status
from metrics.statistics import median, share
from robustness_tests.harness.worst import worst_of
from robustness_tests.judgements import ROUNDING, SCORED, assert_labels_are_kept, position_in_bracket

INSIDE_THE_BALL = 1 - 1e-6
"""A perturbation is scaled in floating point, and has to end up inside."""


def required(certificates, run):
    """Skip if no certificate could be proved; with `--certify require`, fail if any is missing."""
    classified = [one for one in certificates if one.status is not Status.MISCLASSIFIED]
    missing = [one for one in classified if one.status is Status.UNAVAILABLE]
    if not missing or (run.certify != "require" and len(missing) < len(classified)):
        return
    reason = f"no certificate for {len(missing)} of {len(classified)} images: {missing[0].reason}"
    if run.certify == "require":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.mark.about("suite", feeds="certified")
def test_certified_below_distance(
    model, norm, image, certified_distance, exact_distance, adversarial_distance, run, measured
):
    """The certified distance of an image is not above its adversarial distance: together they bracket the true one.

    Hard, and a theorem: a failure is a bug of this suite, not of the model.
    """
    certificate = certified_distance(model, image, norm=norm)
    distance = adversarial_distance(model, image, norm=norm)
    measured(
        {
            "certified": certificate.distance,
            "distance": distance.distance,
            "status": certificate.status,
            "exact": exact_if_any(model, norm, image, exact_distance),
            "trials": certificate.trials,
        },
        forward=certificate.forward,
        backward=certificate.backward,
        stored=certificate.stored,
    )
    if certificate.status is Status.MISCLASSIFIED:
        pytest.skip("misclassified: the distance is 0")
    required([certificate], run)
    assert certificate.distance <= distance.distance * (1 + ROUNDING), (
        f"certified {norm} distance {certificate.distance:.6f} of image {image} is above the adversarial distance "
        f"{distance.distance:.6f}: one of both is wrong"
    )


@pytest.mark.parametrize("norm", ["linf"])
@pytest.mark.about("suite")
def test_exact_within_bracket(
    model, norm, exact_distance, certified_distance, adversarial_distance, certified_images, run, measured
):
    """The exact distances of a small ReLU network are between the certified and the adversarial distances.

    Hard, and a theorem: a failure is a bug of this suite, not of the model. Read how near the certified and adversarial
    distances come to the exact ones. The test skips networks that are too large or not a chain of layers.
    """
    if norm not in run.norms:
        pytest.skip(f"--norms has no {norm}, the norm of exact distances")
    every = [exact_distance(model, image, norm=norm) for image in certified_images]
    bounded = [one for one in every if one.status in (Status.EXACT, Status.CENSORED)]
    if not bounded:
        reasons = [one.reason for one in every if one.reason]
        pytest.skip(f"no exact distance: {reasons[0]}" if reasons else "no image is certified: --certify off")
    certified = [certified_distance(model, one.image, norm=norm).distance for one in bounded]
    attacked = [adversarial_distance(model, one.image, norm=norm).distance for one in bounded]
    solved = [one.status is Status.EXACT for one in bounded]
    measured({"seconds": sum(one.seconds for one in bounded)}, value=sum(solved) / len(bounded), images=len(bounded))
    three = [
        (lower, one.distance, upper)
        for lower, one, upper, exact in zip(certified, bounded, attacked, solved, strict=True)
        if exact and math.isfinite(lower)
    ]
    if three:
        measured(certified_ratio=median([lower / exact for lower, exact, _ in three], 0.95).value)
        measured(attack_ratio=sum(upper / exact for _, exact, upper in three) / len(three))
    for one, lower, upper in zip(bounded, certified, attacked, strict=True):
        assert not lower > one.upper * (1 + ROUNDING), (
            f"certified distance {lower:.6f} of image {one.image} is above the exact one, at most {one.upper:.6f}"
        )
        assert one.lower <= upper * (1 + ROUNDING), (
            f"exact distance of image {one.image}, {one.lower:.6f} or more, is above the adversarial one {upper:.6f}"
        )
    if not any(solved):
        pytest.skip(f"none of {len(bounded)} images was solved within the time limit: the network is too large for it")


@pytest.mark.about("suite")
def test_no_perturbation_within_certified_radius(model, norm, certified_distance, certified_images, run, measured):
    """No perturbation that hypothesis draws within the certified radius changes a label.

    Hard, and a theorem: a failure is a bug of this suite, not of the model.
    """
    certificates = [certified_distance(model, image, norm=norm) for image in certified_images]
    proved = [one for one in certificates if one.status is Status.CERTIFIED]
    if not proved:
        required(certificates, run)
        pytest.skip("no image is certified")
    examples = 10 if run.quick else 50
    measured(threshold=1.0, images=len(proved), examples=examples, examples_at="the certified radius")
    radii = {one.image: INSIDE_THE_BALL * one.distance for one in proved}
    assert_labels_are_kept(model, radii, norm, examples=examples, seed=run.seed, what="within the certified radius")


@pytest.mark.about("model")
def test_certified_accuracy(candidate, norm, epsilon, certified_distance, certified_images, thresholds, run, measured):
    """The candidate provably keeps the right label of enough images under every perturbation up to norm epsilon.

    Certified accuracy is a lower bound of the true share, and robust accuracy an upper bound. A failure means that the
    model is less robust than the threshold asks for, or that the bounds are too loose for it. Skipped if there are no
    bounds for the model.
    """
    certificates = [certified_distance(candidate, image, norm=norm) for image in certified_images]
    if not certificates:
        pytest.skip("no image is certified: --certify off")
    required(certificates, run)
    proved_up_to = {one.image: one.distance if one.status is Status.CERTIFIED else 0.0 for one in certificates}
    held = sum(distance >= float(epsilon) for distance in proved_up_to.values())
    measured(worst=worst_of({image: one for image, one in proved_up_to.items() if one < float(epsilon)}))
    proved = share(held, len(certificates), thresholds.confidence)
    least = thresholds.epsilons(run.dataset, norm, "certified_accuracy")[epsilon]
    measured(estimate=proved, threshold=least, images=len(certificates))
    assert proved.value >= least, (
        f"{candidate.name} provably keeps the label of {held} of {len(certificates)} images up to {norm} {epsilon} "
        f"({proved.value:.1%}), expected {least:.1%} or more"
    )


@pytest.mark.about("numbers")
def test_clever_within_bracket(
    model,
    norm,
    clever,
    certified_distance,
    exact_distance,
    adversarial_distance,
    certified_images,
    thresholds,
    run,
    measured,
):
    """CLEVER scores are between the certified distance and the exact one, or the adversarial one if none is known.

    A score above the exact or adversarial distance is wrong. The test fails if the whole interval of their share is
    above what `test_share_of_clever_below_distance` allows. A score below the certified distance is right but useless,
    since a better bound is proved. If the median of certified / adversarial distance is small, the bounds are loose,
    which says nothing about the model. The report then marks them as uninformative.
    """
    certificates = [certified_distance(model, image, norm=norm) for image in certified_images]
    if not certificates:
        pytest.skip("no image is certified: --certify off")
    required(certificates, run)
    proved = {one.image: one.distance for one in certificates if one.status is Status.CERTIFIED}
    attacks = {image: adversarial_distance(model, image, norm=norm) for image in proved}
    ratios = [
        lower / attacks[image].distance for image, lower in proved.items() if attacks[image].status is Status.ATTACKED
    ]
    if ratios:
        certified_ratio = median(ratios, thresholds.confidence).value
        measured(certified_ratio=certified_ratio, uninformative=certified_ratio < thresholds.certified_ratio)
    positions = [
        position_in_bracket(
            clever(model, image, norm=norm),
            lower,
            exact_if_any(model, norm, image, exact_distance) or attacks[image].distance,
        )
        for image, lower in proved.items()
        if clever(model, image, norm=norm).status in SCORED
    ]
    if not positions:
        pytest.skip("no image has both a CLEVER score and a certificate")
    shares = {name: positions.count(name) / len(positions) for name in ("above", "inside", "below")}
    measured(value=shares["inside"], clever_above=shares["above"], clever_below=shares["below"], images=len(positions))
    most = 1 - thresholds.clever_below_distance
    assert share(positions.count("above"), len(positions), thresholds.confidence).lower <= most, (
        f"CLEVER is above the true {norm} distance for {shares['above']:.1%} of {len(positions)} images of "
        f"{model.name}, expected {most:.1%} or less"
    )


def exact_if_any(model, norm, image, exact_distance):
    """The exact distance, or none: it is for L-infinity and small networks."""
    exact = exact_distance(model, image, norm=norm)
    return exact.distance if exact.status is Status.EXACT else None
