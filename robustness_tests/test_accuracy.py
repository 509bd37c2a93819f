"""The accuracy of the candidate: on clean images, and under perturbations up to a stated norm."""

import pytest

from metrics.statistics import share
from robustness_tests.harness.worst import MAX_WORST_IMAGES, worst_of
from robustness_tests.judgements import is_robust


@pytest.mark.about("model")
def test_clean_accuracy(candidate, run, thresholds, measured):
    """The candidate classifies enough clean images correctly.

    Measured on at least 1,000 images of the test split (quick: 100), or on all if it has fewer, even if `--images` is
    smaller: each image takes one pass only. A failure means that the model is not good enough even without an attack.
    Or its images are preprocessed in another way than in training: check the normalisation and the order of channels.
    """
    count = run.accuracy_images
    found = candidate.right(count)
    wrong = [image for image, right in found.items() if not right]
    right = count - len(wrong)
    accuracy = share(right, count, thresholds.confidence)
    least = thresholds.clean_accuracy
    # Of a sample, the baseline of a later run has to know which images were measured.
    measured({"correct": [image for image, right in found.items() if right]} if run.sample else {})
    measured({"misclassified": wrong}, estimate=accuracy, threshold=least, images=count, worst=wrong[:MAX_WORST_IMAGES])
    if least is None:
        pytest.skip(f"measured and not judged: no threshold file states clean_accuracy.least for {candidate.dataset}")
    assert accuracy.value >= least, (
        f"{candidate.name} classifies {right} of {count} images correctly ({accuracy.value:.1%}), "
        f"expected {least:.1%} or more"
    )


@pytest.mark.about("model")
def test_robust_accuracy(candidate, reference, adversarial_distance, images, norm, epsilon, thresholds, measured):
    """The candidate keeps the right label of enough images up to a perturbation of norm epsilon.

    Robust accuracy is the share of images whose adversarial distance is larger than epsilon. A misclassified image is
    not robust at any epsilon. The share is an upper bound of the true one, since a stronger attack may find more
    adversarial examples. A failure means that an attacker with this budget fools the model too often.
    """
    distances = {image: adversarial_distance(candidate, image, norm=norm) for image in images}
    robust = sum(is_robust(one, float(epsilon)) for one in distances.values())
    of_reference = sum(is_robust(adversarial_distance(reference, image, norm=norm), float(epsilon)) for image in images)
    accuracy = share(robust, len(images), thresholds.confidence)
    least = thresholds.epsilons(candidate.dataset, norm).get(epsilon)
    measured(estimate=accuracy, threshold=least, images=len(images))
    measured(reference_value=of_reference / len(images) if reference.name != candidate.name else None)
    measured(
        worst=worst_of({image: one.distance for image, one in distances.items() if one.distance <= float(epsilon)})
    )
    if least is None:
        pytest.skip(f"measured and not judged: no threshold file states robust_accuracy.{candidate.dataset}.{norm}")
    assert accuracy.value >= least, (
        f"{candidate.name} keeps the label of {robust} of {len(images)} images up to {norm} {epsilon} "
        f"({accuracy.value:.1%}), expected {least:.1%} or more"
    )
