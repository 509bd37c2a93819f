"""RobustBench states the accuracies of its models. Do the measured ones agree?"""

import pytest

from metrics.statistics import share
from robustness_tests.judgements import is_robust

CONFIDENCE = 0.999
"""Of the intervals. At 95 %, one model of twenty would fail for its test images alone, in every run."""


@pytest.mark.about("suite")
def test_clean_accuracy_agrees_with_leaderboard(model, leaderboard, run, measured):
    """The clean accuracy agrees with the one that RobustBench states for the model.

    The interval of the measured accuracy (confidence 99.9 %) contains that one. A failure means that images, weights or
    preprocessing are not those that RobustBench used, so no other number of this model is right either.
    """
    count = run.accuracy_images
    right = sum(model.right(count).values())
    accuracy = share(right, count, CONFIDENCE)
    measured(estimate=accuracy, threshold=leaderboard.clean, images=count, needed="equal", judged_by="interval")
    assert accuracy.lower <= leaderboard.clean <= accuracy.upper, (
        f"{model.name} classifies {right} of {count} images correctly ({accuracy.value:.1%}, interval "
        f"{accuracy.lower:.1%} to {accuracy.upper:.1%}), expected the {leaderboard.clean:.2%} that RobustBench states: "
        "check the files of images and weights, and the version of robustbench"
    )


@pytest.mark.about("suite")
def test_robust_accuracy_not_above_leaderboard(model, leaderboard, norm, adversarial_distance, images, run, measured):
    """The robust accuracy is not above the one that RobustBench states for the model, at its epsilon.

    The interval of the measured accuracy (confidence 99.9 %) contains that one, or lies below it. It is the smaller of
    AutoAttack's and of a stronger attack's, if one was reported. A failure means that the attack of this suite misses
    adversarial examples of this model.
    """
    if norm != leaderboard.norm:
        pytest.skip(f"RobustBench states no robust accuracy of {model.name} in {norm}")
    distances = [adversarial_distance(model, image, norm=norm) for image in images]
    robust = sum(is_robust(one, leaderboard.size) for one in distances)
    accuracy = share(robust, len(images), CONFIDENCE)
    measured(
        estimate=accuracy, threshold=leaderboard.robust, images=len(images), needed="at most", judged_by="interval"
    )
    measured(condition=f"up to {leaderboard.epsilon}")
    assert accuracy.lower <= leaderboard.robust, (
        f"{model.name} keeps the label of {robust} of {len(images)} images up to {norm} {leaderboard.epsilon} "
        f"({accuracy.value:.1%}, interval from {accuracy.lower:.1%}), expected at most the {leaderboard.robust:.2%} "
        f"that RobustBench states: its attacks find more than ours at {run.effort} effort"
    )
