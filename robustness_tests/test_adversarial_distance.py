"""Adversarial distances: each one is correct, and those of the candidate are larger than those of the reference."""

import itertools

import numpy as np
import pytest

from metrics import Status
from metrics.statistics import median, share
from robustness_tests.harness.fixtures.black_box import ENOUGH
from robustness_tests.harness.worst import MAX_WORST_IMAGES, difference, worst_of
from robustness_tests.judgements import assert_candidate_is_larger


@pytest.mark.about("suite", feeds="distance")
def test_adversarial_example_is_real(model, norm, image, adversarial_distance, measured):
    """The adversarial image has values in [0, 1], is misclassified, and is at the stated distance.

    Hard: a single failure fails the gate. It means that a number of this suite is wrong, not that the model is bad.
    """
    distance = adversarial_distance(model, image, norm=norm)
    label = model.label(image)
    clean, right = model.prediction(model.image(image))
    measured(
        {
            "distance": distance.distance,
            "status": distance.status,
            "attack": distance.attack,
            "bracket": distance.bracket,
            "label": label,
            "clean_class": clean,
            "clean_confidence": right,
            "stored_at": distance.stored_at,
        },
        forward=distance.forward,
        backward=distance.backward,
        stored=distance.stored,
    )
    if distance.status is Status.MISCLASSIFIED:
        pytest.skip("misclassified: the distance is 0 by definition")
    if distance.status is Status.CENSORED:
        pytest.skip("censored: no adversarial example was found within the budget")

    adversarial = distance.adversarial
    lowest, highest = float(adversarial.min()), float(adversarial.max())
    assert 0 <= lowest <= highest <= 1, f"the image has values from {lowest} to {highest}, expected [0, 1]"
    perturbation = (adversarial.double() - model.image(image).double()).flatten().numpy()
    length = np.linalg.norm(perturbation, {"linf": np.inf, "l2": 2, "l1": 1}[norm])
    assert distance.distance == pytest.approx(length, rel=1e-5), f"the perturbation has {norm} norm {length}"
    predicted, confidence = model.prediction(adversarial)
    measured({"adversarial_class": predicted, "adversarial_confidence": confidence, "trace": distance.trace})
    assert predicted != label, f"classified again, the adversarial image still has its label {predicted}"


@pytest.mark.about("model")
def test_candidate_beats_reference_in_adversarial_distance(
    candidate, reference, norm, adversarial_distance, images, thresholds, measured
):
    """An attacker has to perturb images further for the candidate than for the reference.

    The test compares the medians over the images that both models classify correctly, and applies a one-sided Wilcoxon
    signed-rank test to the same pairs. A failure means that the candidate is not more robust than the reference, or
    that too few images were measured to show it.
    """
    if candidate.name == reference.name:
        pytest.skip(f"nothing to compare: no other model than {candidate.name} was given")
    pairs = [[adversarial_distance(model, image, norm=norm) for model in (candidate, reference)] for image in images]
    both = [pair for pair in pairs if all(one.status is not Status.MISCLASSIFIED for one in pair)]
    assert both, "no image is classified correctly by both models"
    ours, theirs = ([pair[side].distance for pair in both] for side in (0, 1))
    measured(worst=worst_of({a.image: difference(a.distance, b.distance) for a, b in both}))
    names = (candidate.name, reference.name)
    assert_candidate_is_larger(ours, theirs, names, f"{norm} distance", thresholds, measured)


@pytest.mark.about("numbers", feeds="converged")
def test_attack_has_converged(model, norm, adversarial_distance, images, thresholds, measured):
    """With half of the passes, the attack would have found nearly the same distances.

    The value is the distance after half of the queries divided by the distance at the end: the median over the attacked
    images. The test fails if the whole interval is above the threshold, so that other images would show the same. A
    failure means that the distances are still falling: they are too large, and so are the robust accuracies. Run with a
    larger effort.
    """
    attacked = [
        distance
        for image in images
        if (distance := adversarial_distance(model, image, norm=norm)).status is Status.ATTACKED
    ]
    if not attacked:
        pytest.skip("no image was attacked with success")
    ratio = median([distance.halfway / distance.distance for distance in attacked], thresholds.confidence)
    measured(worst=worst_of({distance.image: -distance.halfway / distance.distance for distance in attacked}))
    most = 1 + thresholds.convergence
    measured(estimate=ratio, threshold=most, images=len(attacked), unit="ratio")
    measured(needed="at most", judged_by="interval")
    assert ratio.lower <= most, (
        f"after half of the passes the {norm} distances of {model.name} were {ratio.value:.3f} times as large as at "
        f"the end (median of {len(attacked)} images, {ratio.lower:.3f} or more), expected {most:.3f} times or less: "
        "they are still falling"
    )


@pytest.mark.about("numbers", feeds="informative_gradients")
def test_gradients_are_informative(
    model, norm, adversarial_distance, black_box, black_box_images, thresholds, measured
):
    """An attack without gradients finds nothing much nearer than the attacks with gradients.

    Square, a random search, attacks the first images that are classified correctly. With the quick effort, the attacks
    with gradients get a second try at the default effort where Square is nearer. A failure means that the gradients of
    this model do not lead to its decision boundary. Either they are masked (quantised, saturated or random logits, a
    layer without a derivative), or the attacks are stuck. The adversarial distances and the robust accuracy of the
    model are then too large, and its CLEVER scores are worthless.
    """
    tried = (attack for image in black_box_images if (attack := black_box(model, image, norm=norm)).tried)
    probed = list(itertools.islice(tried, ENOUGH))
    if not probed:
        pytest.skip("no image is classified correctly")
    tolerance = thresholds.gradient_tolerance
    nearer = {one.image: one.distance for one in probed if one.distance < (1 - tolerance) * one.second_try}
    held = share(len(probed) - len(nearer), len(probed), thresholds.confidence)
    measured(
        {"tolerance": tolerance, "found_nearer": [f"{image:05d}" for image in nearer]},
        estimate=held,
        threshold=1.0,
        images=len(probed),
        worst=list(nearer)[:MAX_WORST_IMAGES],
        forward=sum(one.forward for one in probed),
        backward=sum(one.backward for one in probed),
        stored=all(one.stored for one in probed),
    )
    for image, distance in nearer.items():
        with_gradients = adversarial_distance(model, image, norm=norm).distance
        pytest.fail(
            f"without gradients, Square changed the label of {len(nearer)} of {len(probed)} images of {model.name} "
            f"more than {tolerance:.0%} nearer than the attacks with gradients: image {image:05d} at {norm} "
            f"{distance:.4f}, where they found {with_gradients:.4f} (inf: nothing). The gradients "
            "are masked: distances and CLEVER scores of this model say nothing"
        )
