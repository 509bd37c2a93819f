"""Accuracy of candidate and reference under common corruptions: weather, blur, noise, compression."""

import pytest

from metrics.statistics import mean_share
from robustness_tests.harness.worst import worst_of
from robustness_tests.judgements import assert_right_more_often


@pytest.mark.about("model")
def test_common_corruptions(candidate, reference, common_corruptions, images, thresholds, measured):
    """The candidate classifies enough images correctly under common corruptions.

    The value is the mean accuracy over 15 corruptions and five severities (Hendrycks & Dietterich 2019), such as
    weather, blur, noise and compression: of CIFAR-10-C where its files are there, and else of the images of the run. A
    failure means that the model is not robust to the corruptions of real cameras.
    """
    found = common_corruptions(candidate)
    accuracy = mean_share(found.of_images, thresholds.confidence)
    accuracies = {name: sum(of_images) / len(of_images) for name, of_images in found.shares.items()}
    worst, least = min(accuracies, key=accuracies.get), thresholds.common_corruptions
    measured({"corruptions": accuracies}, estimate=accuracy, images=len(images), threshold=least)
    measured(worst=worst_of(dict(zip(images, found.of_images, strict=True))))
    if reference.name != candidate.name:
        theirs = common_corruptions(reference).of_images
        measured(reference_value=sum(theirs) / len(theirs))
    least_of_worst = thresholds.worst_corruption
    if least is None and least_of_worst is None and not thresholds.corruptions:
        pytest.skip("measured and not judged: no threshold file states common_corruptions.least")
    assert least is None or accuracy.value >= least, (
        f"{candidate.name} classifies {accuracy.value:.1%} of corrupted images correctly ({accuracies[worst]:.1%} "
        f"under {worst}), expected {least:.1%} or more"
    )
    assert least_of_worst is None or accuracies[worst] >= least_of_worst, (
        f"{candidate.name} classifies {accuracies[worst]:.1%} of images correctly under {worst}, the worst corruption, "
        f"expected {least_of_worst:.1%} or more"
    )
    for name, least_of_one in thresholds.corruptions.items():
        assert accuracies[name] >= least_of_one, (
            f"{candidate.name} classifies {accuracies[name]:.1%} of images correctly under {name}, expected "
            f"{least_of_one:.1%} or more"
        )


@pytest.mark.about("model")
def test_candidate_beats_reference_under_common_corruptions(
    candidate, reference, common_corruptions, images, thresholds, measured
):
    """The candidate is right more often than the reference under common corruptions of the same images.

    Each image has a share of right labels, over 15 corruptions and five severities. The test compares the means of this
    share over all images, and applies a one-sided Wilcoxon signed-rank test to the pairs. A failure means that the
    candidate is not more robust to common corruptions than the reference, or that too few images were measured to show
    it.
    """
    models = {model.name: model for model in (candidate, reference)}.values()
    found = [common_corruptions(model) for model in models]
    measured(forward=sum(one.forward for one in found), backward=0, stored=all(one.stored for one in found))
    if len(found) == 1:
        pytest.skip(f"nothing to compare: no other model than {candidate.name} was given")
    ours, theirs = (one.of_images for one in found)
    measured(worst=worst_of({image: a - b for image, a, b in zip(images, ours, theirs, strict=True)}))
    assert_right_more_often(ours, theirs, (candidate.name, reference.name), "corrupted", thresholds, measured)
