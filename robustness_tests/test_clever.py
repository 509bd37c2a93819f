"""CLEVER by itself: that nothing within its radius changes a label, and that the candidate's scores are larger."""

import hypothesis
import pytest
import torch
from hypothesis import strategies

from metrics import Status
from metrics.norms import length
from metrics.statistics import compare
from robustness_tests.harness.worst import difference, worst_of

SCORED = (Status.ESTIMATED, Status.SATURATED)


def directions(shape, norm):
    """Perturbations of norm 1: a few values, or all of them by a seed. The simplest one changes a single value."""
    size = torch.Size(shape).numel()
    few = strategies.dictionaries(strategies.integers(0, size - 1), strategies.sampled_from([1.0, -1.0]), min_size=1)
    return strategies.one_of(few, strategies.integers(0, 2**32 - 1)).map(lambda drawn: direction(drawn, shape, norm))


def direction(drawn, shape, norm):
    """The perturbation of norm 1 that hypothesis has drawn: {position: sign}, or the seed of a random one."""
    values = torch.zeros(torch.Size(shape).numel())
    if isinstance(drawn, dict):
        values[list(drawn)] = torch.tensor(list(drawn.values()))
    else:
        values = torch.randn(len(values), generator=torch.Generator().manual_seed(drawn))
        values = values.sign() if norm == "linf" else values
    values = values.view(1, *shape)
    return values / length(values, norm)


@pytest.mark.about("numbers")
def test_no_perturbation_within_clever_radius(model, norm, clever, images, thresholds, run, measured):
    """No perturbation that hypothesis draws, of norm up to a stated part of the CLEVER score, changes a label.

    Hard. Each direction is tried on all images, each scaled to its own score; one that changes a label is shrunk to the
    simplest that does. A failure means that CLEVER is far too large for these images.
    """
    scored = [score for image in images if (score := clever(model, image, norm=norm)).status in SCORED]
    if not scored:
        pytest.skip("no image has a CLEVER score")
    rows = [score.image for score in scored]
    clean, labels = model.images.images[rows], model.images.labels[rows]
    factor = thresholds.clever_radius_factor
    radius = factor * torch.tensor([score.score for score in scored]).view(-1, 1, 1, 1)
    examples = 10 if run.quick else 50
    measured(threshold=factor, images=len(rows), examples=examples, examples_at=f"{factor:g} x CLEVER")

    @hypothesis.seed(run.seed)
    @hypothesis.settings(max_examples=examples, deadline=None, database=None, print_blob=False)
    @hypothesis.given(directions(clean.shape[1:], norm))
    def keeps_labels(step):
        predicted = model.logits((clean + radius * step).clamp(0, 1)).argmax(dim=1)
        changed = [row for row, same in zip(rows, (predicted == labels).tolist(), strict=True) if not same]
        values = int((step != 0).sum())
        assert not changed, (
            f"a {norm} perturbation of {values} values, {factor} times as large as the CLEVER score, "
            f"changes the label of image {', '.join(map(str, changed[:5]))}"
        )

    keeps_labels()


@pytest.mark.about("model")
def test_candidate_beats_reference_in_clever(candidate, reference, norm, clever, images, thresholds, measured):
    """The CLEVER scores of the candidate are larger than those of the reference.

    Medians over the images that have a score for both models, and a one-sided Wilcoxon signed-rank test on the same
    pairs. A score at its radius counts as larger than any below. A failure means that the candidate is not smoother
    around its images than the model it is to replace, or that too few images were measured to tell.
    """
    if candidate.name == reference.name:
        pytest.skip(f"nothing to compare: no other model than {candidate.name} was given")
    pairs = [[clever(model, image, norm=norm) for model in (candidate, reference)] for image in images]
    both = [pair for pair in pairs if all(one.status in SCORED for one in pair)]
    assert both, "no image has a CLEVER score for both models"
    ours, theirs = ([at_least(pair[side]) for pair in both] for side in (0, 1))
    measured(worst=worst_of({a.image: difference(at_least(a), at_least(b)) for a, b in both}))
    result = compare(ours, theirs, thresholds.confidence)
    measured(value=result.candidate, reference_value=result.reference, images=result.pairs, p_value=result.p_value)
    measured(difference=result.difference.value, low=result.difference.low, high=result.difference.high)
    measured(threshold=thresholds.largest_p_value)
    assert result.candidate > result.reference, (
        f"median {norm} CLEVER score {result.candidate:.4f} of {candidate.name}, "
        f"expected more than {result.reference:.4f} of {reference.name} ({result.pairs} images)"
    )
    assert result.p_value <= thresholds.largest_p_value, (
        f"the larger median may be chance: p = {result.p_value:.3f} on {result.pairs} images, "
        f"expected {thresholds.largest_p_value} or less"
    )


def at_least(score):
    """The score for a comparison: one at the radius is larger than any below."""
    return float("inf") if score.status is Status.SATURATED else score.score
