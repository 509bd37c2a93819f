"""The adversarial distance: that each one is true, and that the candidate's are larger than the reference's."""

import numpy as np
import pytest

from metrics import Status
from metrics.statistics import compare


def test_adversarial_example_is_real(model, norm, image, adversarial_distance, measured):
    """The image that an attack has kept is an image, it is classified wrongly, and its distance is the one stated.

    Hard: a single failure fails the gate. It says that a number of this suite is wrong, not that the model is bad.
    """
    found = adversarial_distance(model, image, norm=norm)
    measured(distance=found.distance, status=found.status, forward=found.forward, backward=found.backward)
    measured(attack=found.attack, stored=found.stored)
    if found.status is Status.MISCLASSIFIED:
        pytest.skip("misclassified: the distance is 0 by definition")
    if found.status is Status.CENSORED:
        pytest.skip("censored: no adversarial example was found within the budget")

    adversarial = found.adversarial
    lowest, highest = float(adversarial.min()), float(adversarial.max())
    assert 0 <= lowest <= highest <= 1, f"the image has values from {lowest} to {highest}, expected [0, 1]"
    perturbation = (adversarial.double() - model.image(image).double()).flatten().numpy()
    length = np.linalg.norm(perturbation, {"linf": np.inf, "l2": 2}[norm])
    assert found.distance == pytest.approx(length, rel=1e-5), f"the perturbation has {norm} norm {length}"
    predicted = int(model.logits(adversarial[None]).argmax())
    measured(label=model.label(image), predicted=predicted)
    assert predicted != model.label(image), f"classified again, the image is in its own class {predicted}"


def test_candidate_beats_reference_in_adversarial_distance(
    candidate, reference, norm, adversarial_distance, images, thresholds, measured
):
    """An attacker has to perturb images further for the candidate than for the reference.

    Medians over the images that both models classify correctly, and a one-sided Wilcoxon signed-rank test on the same
    pairs. A failure means that the candidate is not more robust than the model it is to replace, or that too few
    images were measured to tell.
    """
    if candidate.name == reference.name:
        pytest.skip(f"nothing to compare: --model and --against are both {candidate.name}")
    pairs = [[adversarial_distance(model, image, norm=norm) for model in (candidate, reference)] for image in images]
    both = [pair for pair in pairs if all(one.status is not Status.MISCLASSIFIED for one in pair)]
    assert both, "no image is classified correctly by both models"
    ours, theirs = ([pair[side].distance for pair in both] for side in (0, 1))
    result = compare(ours, theirs, thresholds.confidence)
    measured(value=result.candidate, reference_value=result.reference, images=result.pairs, p_value=result.p_value)
    measured(difference=result.difference.value, low=result.difference.low, high=result.difference.high)
    measured(threshold=thresholds.largest_p_value)
    assert result.candidate > result.reference, (
        f"median {norm} distance {result.candidate:.4f} of {candidate.name}, "
        f"expected more than {result.reference:.4f} of {reference.name} ({result.pairs} images)"
    )
    assert result.p_value <= thresholds.largest_p_value, (
        f"the larger median may be chance: p = {result.p_value:.3f} on {result.pairs} images, "
        f"expected {thresholds.largest_p_value} or less"
    )
