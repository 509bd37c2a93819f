"""The form of the candidate that ships, against the candidate: `--deployed`.

These tests are collected only with `--deployed`. A quantised network, for example, has no gradient that an attack could
follow. So the candidate is attacked, and its adversarial examples are run on the deployed form.
"""

import statistics

import pytest

from metrics.statistics import share
from robustness_tests.harness.worst import MAX_WORST_IMAGES, worst_of


@pytest.mark.about("model")
def test_deployed_form_agrees_with_candidate(candidate, deployed, run, thresholds, measured):
    """The deployed form predicts the same class as the candidate on enough clean images.

    The images are those of the clean accuracy. A failure means that the conversion has changed the network, or that the
    deployed form takes its images in another way.
    """
    count = run.accuracy_images
    ours, shipped = candidate.predictions(count), deployed.predictions(count)
    differ = [image for image, predicted in ours.items() if shipped[image] != predicted]
    agreement = share(count - len(differ), count, thresholds.confidence)
    measured({"differ": differ}, estimate=agreement, threshold=thresholds.deployed_agreement, images=count)
    measured(worst=differ[:MAX_WORST_IMAGES])
    assert agreement.value >= thresholds.deployed_agreement, (
        f"{deployed.name} predicts the class of {candidate.name} on {agreement.value:.1%} of {count} images, expected "
        f"{thresholds.deployed_agreement:.1%} or more"
    )


@pytest.mark.about("model")
def test_deployed_form_is_fooled_no_earlier(candidate, deployed, deployed_distance, images, norm, thresholds, measured):
    """The adversarial examples of the candidate do not fool the deployed form much nearer to the image.

    Each adversarial example of the candidate gives a line, from the image to twice its distance. The value is the
    median, over images that both classify correctly, of the first distance on this line at which the deployed form is
    wrong, in units of the candidate's distance. A failure means that the numbers of the candidate are too good for what
    ships. A value near 1 does not prove the opposite, because another direction may be worse for the deployed form.
    """
    found = {image: deployed_distance(image, norm) for image in images}
    ratios = {image: one.ratio for image, one in found.items() if one is not None}
    measured(forward=sum(one.forward for one in found.values() if one), backward=0, stored=False)
    if not ratios:
        pytest.skip("no image has an adversarial example and is classified correctly by both")
    least = 1 - thresholds.deployed_tolerance
    median = statistics.median(ratios.values())
    measured(value=median, threshold=least, images=len(ratios), worst=worst_of(ratios))
    assert median >= least, (
        f"{deployed.name} is fooled at {median:.3f} of the adversarial distance of {candidate.name} ({norm}, median of "
        f"{len(ratios)} images), expected {least:.3f} or more"
    )
