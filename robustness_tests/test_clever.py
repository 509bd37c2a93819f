"""CLEVER alone: no perturbation well below the score changes a label, and the candidate's scores are larger."""

import pytest

from robustness_tests.harness.worst import difference, worst_of
from robustness_tests.judgements import SCORED, assert_candidate_is_larger, assert_labels_are_kept, at_least


@pytest.mark.about("numbers")
def test_no_perturbation_within_clever_radius(model, norm, clever, images, thresholds, run, measured):
    """No perturbation that hypothesis draws within a stated fraction of the CLEVER score changes a label.

    Hard. Each direction is tried on all images, scaled to this fraction of the score of each. Hypothesis shrinks a
    direction that changes a label to the simplest one. A failure means that CLEVER is far too large for these images.
    """
    scored = [score for image in images if (score := clever(model, image, norm=norm)).status in SCORED]
    if not scored:
        pytest.skip("no image has a CLEVER score")
    factor = thresholds.clever_radius_factor
    examples = 10 if run.quick else 50
    measured(threshold=factor, images=len(scored), examples=examples, examples_at=f"{factor:g} x CLEVER")
    radii = {score.image: factor * score.score for score in scored}
    what = f"{factor} times as large as the CLEVER score"
    assert_labels_are_kept(model, radii, norm, examples=examples, seed=run.seed, what=what)


@pytest.mark.about("model")
def test_candidate_beats_reference_in_clever(candidate, reference, norm, clever, images, thresholds, measured):
    """The CLEVER scores of the candidate are larger than those of the reference.

    The test compares the medians over the images that have a score for both models, and applies a one-sided Wilcoxon
    signed-rank test to the same pairs. A score at its radius counts as larger than any score below it. A failure means
    that the candidate is not smoother around the images than the reference, or that too few images were measured to
    show it.
    """
    if candidate.name == reference.name:
        pytest.skip(f"nothing to compare: no other model than {candidate.name} was given")
    pairs = [[clever(model, image, norm=norm) for model in (candidate, reference)] for image in images]
    both = [pair for pair in pairs if all(one.status in SCORED for one in pair)]
    assert both, "no image has a CLEVER score for both models"
    ours, theirs = ([at_least(pair[side]) for pair in both] for side in (0, 1))
    measured(worst=worst_of({a.image: difference(at_least(a), at_least(b)) for a, b in both}))
    names = (candidate.name, reference.name)
    assert_candidate_is_larger(ours, theirs, names, f"{norm} CLEVER score", thresholds, measured)
