"""CLEVER against closed forms, and what it must not depend on."""

import importlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from metrics import Status, clever, clever_norms
from metrics.gradient_norms import SAMPLINGS
from metrics.gradient_norms.sampling import perturbations
from metrics.norms import DUAL, NORMS, vector_norm
from references.linear_models import closed_form, images_near_the_middle, linear_model


def margin_over_dual_norm(weights, bias, images, labels, norm):
    """The smallest over the targets; CLEVER knows nothing of the box."""
    logits = images.flatten(1).double() @ weights.T.double() + bias.double()
    margins = logits.gather(1, labels[:, None]) - logits
    slopes = (weights.double()[labels][:, None] - weights.double()).norm(
        p={"linf": 1, "l2": 2, "l1": torch.inf}[norm], dim=2
    )
    return torch.where(slopes > 0, margins / slopes, torch.inf).amin(dim=1)


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("norm", NORMS)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**20))
def test_linear_model(norm, sampling, seed):
    weights, bias, model = linear_model(seed)
    images = images_near_the_middle(seed)
    labels = model(images).argmax(dim=1)
    found = clever(model, images, labels, norm=norm, sampling=sampling, radius=100.0, blocks=4, block_size=4)
    exact = margin_over_dual_norm(weights, bias, images, labels, norm)
    # The margin is a difference of logits: its rounding is absolute.
    np.testing.assert_allclose(found.score.double(), exact, rtol=1e-5, atol=1e-6)
    assert found.lower.tolist() == found.score.tolist() == found.upper.tolist()
    assert (found.status == Status.ESTIMATED).all()
    assert not found.masked_gradient.any()
    assert (found.blocks == 3).all(), "a constant gradient needs no more than the first look"


@pytest.mark.parametrize("norm", NORMS)
def test_linear_model_in_double_precision(norm):
    weights, bias, _ = linear_model(3)
    images = images_near_the_middle(3).double()
    exact_model = lambda x: x.flatten(1) @ weights.double().T + bias.double()  # noqa: E731  # one expression
    labels = exact_model(images).argmax(dim=1)
    found = clever(exact_model, images, labels, norm=norm, radius=100.0, blocks=4, block_size=4)
    exact = margin_over_dual_norm(weights, bias, images, labels, norm)
    np.testing.assert_allclose(found.score, exact, rtol=1e-9)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_dual_norm_of_a_curved_model(norm):
    """Margin (a.x)^2 / 2 - t: the gradient is a (a.x), and its largest dual norm in the ball is known."""
    direction = torch.full((9,), 1 / 3)
    start, radius = torch.full((1, 1, 3, 3), 0.5), 0.1

    def model(images):
        score = (images.flatten(1) @ direction) ** 2 / 2 - 1.1
        return torch.stack([score, -score], dim=1) / 2

    found = clever(model, start, torch.tensor([0]), norm=norm, radius=radius, blocks=60, block_size=60)
    along = float(start.flatten() @ direction) + radius * float(vector_norm(direction[None], DUAL[norm]))
    largest = along * float(vector_norm(direction[None], DUAL[norm]))
    margin = float(model(start) @ torch.tensor([1.0, -1.0]))
    # No sample reaches the corner of the ball that a cannot miss: the estimate is from inside, and never far.
    assert margin / largest <= float(found.score) * 1.02
    assert float(found.score) == pytest.approx(margin / largest, rel=0.1)
    assert float(found.raw) >= margin / largest


def test_dual_norm_is_that_of_the_gradient():
    # Gradient (3, -4) everywhere: L1 norm 7 for L-infinity perturbations, L2 norm 5 for L2 ones.
    weights = torch.tensor([3.0, -4.0])

    def model(images):
        score = images.flatten(1) @ weights
        return torch.stack([score / 2, -score / 2], dim=1)

    image = torch.tensor([0.6, 0.2]).view(1, 1, 1, 2)  # margin 1
    scores = [float(clever(model, image, torch.tensor([0]), norm=norm, radius=1.0).score) for norm in ("linf", "l2")]
    assert scores == pytest.approx([1 / 7, 1 / 5])


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_does_not_depend_on_neighbours(robust, digits, norm):
    images, labels, few = digits.images[:10], digits.labels[:10], {"blocks": 10, "block_size": 8, "radius": 1.0}
    seeds = list(range(10))
    whole = clever(robust, images, labels, norm=norm, seed=seeds, **few)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0)).tolist()
    shuffled = clever(robust, images[order], labels[order], norm=norm, seed=order, **few)
    parts = clever(robust, images, labels, norm=norm, seed=seeds, batch_size=7, **few)
    torch.testing.assert_close(shuffled.score, whole.score[order], rtol=1e-5, atol=0, equal_nan=True)
    torch.testing.assert_close(parts.score, whole.score, rtol=1e-5, atol=0, equal_nan=True)
    again = clever(robust, images, labels, norm=norm, seed=seeds, **few)
    assert torch.equal(again.score.nan_to_num(), whole.score.nan_to_num())
    other = clever(robust, images, labels, norm=norm, seed=7, **few)
    assert not torch.equal(other.score.nan_to_num(), whole.score.nan_to_num())


def test_does_not_touch_global_randomness(robust, digits):
    before = torch.random.get_rng_state()
    clever(robust, digits.images[:2], digits.labels[:2], norm="l2", radius=0.3, blocks=3, block_size=2)
    assert torch.equal(before, torch.random.get_rng_state())


def test_scale_of_the_logits_does_not_matter(robust, digits):
    few = {"norm": "l2", "radius": 0.5, "blocks": 10, "block_size": 8}
    plain = clever(robust, digits.images[:6], digits.labels[:6], **few)
    scaled = clever(lambda x: 1000 * robust(x), digits.images[:6], digits.labels[:6], **few)
    torch.testing.assert_close(scaled.score, plain.score, rtol=1e-4, atol=0, equal_nan=True)


@pytest.mark.slow
def test_dropped_targets_could_not_have_won(robust, digits):
    few = {"norm": "l2", "radius": 0.6, "seed": list(range(12)), "tolerance": 0, "blocks": 20, "block_size": 32}
    dropped = clever(robust, digits.images[:12], digits.labels[:12], **few)
    kept = clever(robust, digits.images[:12], digits.labels[:12], pruning=float("inf"), **few)
    scored = kept.margin.isfinite()
    ratio = (dropped.margin / dropped.lipschitz / (kept.margin / kept.lipschitz))[scored]
    # A dropped target can only make the minimum larger.
    assert (ratio >= 1 - 1e-5).all()
    assert (ratio <= 1.001).double().mean() >= 0.8
    assert dropped.backward[scored].sum() < 0.5 * kept.backward[scored].sum()


def test_targeted_scores_have_the_untargeted_one_as_minimum(robust, digits):
    few = {"norm": "l2", "radius": 1.0, "blocks": 10, "block_size": 8, "pruning": float("inf")}
    images, labels = digits.images[3:7], digits.labels[3:7]
    whole = clever(robust, images, labels, **few)
    others = torch.stack([torch.tensor([k for k in range(10) if k != label]) for label in labels.tolist()])
    single = torch.stack([clever(robust, images, labels, targets=others[:, [k]], **few).score for k in range(9)], dim=1)
    torch.testing.assert_close(single.amin(dim=1), whole.score, rtol=1e-4, atol=0)
    # Scores at the radius are all alike.
    below = whole.status == Status.ESTIMATED
    assert below.any()
    assert torch.equal(others.gather(1, single.argmin(dim=1, keepdim=True))[:, 0][below], whole.target[below])


def test_score_at_the_radius_is_saturated(robust, digits):
    found = clever(robust, digits.images[:4], digits.labels[:4], norm="linf", radius=1e-4, blocks=5, block_size=4)
    assert (found.status == Status.SATURATED)[found.status != Status.MISCLASSIFIED].all()
    assert torch.equal(found.saturated, found.status == Status.SATURATED)
    assert float(found.score.nan_to_num().max()) == pytest.approx(1e-4)


@pytest.mark.parametrize(("part", "saturated"), [(0.9, True), (1.1, False)])
def test_score_is_saturated_from_the_radius_on(part, saturated):
    weights, bias, model = linear_model(0)
    image = images_near_the_middle(0)[:1]
    label = model(image).argmax(dim=1)
    radius = part * float(closed_form(weights, bias, image, label, "l2"))
    found = clever(model, image, label, norm="l2", radius=radius, blocks=3, block_size=2)
    assert bool(found.saturated) is saturated
    assert int(found.status) == (Status.SATURATED if saturated else Status.ESTIMATED)


def test_zero_gradients_give_no_score(robust, digits):
    """Rounded logits: published code answers with the radius, the largest score there is."""
    found = clever(
        lambda x: (1e4 * robust(x)).round() / 1e4, digits.images[:4], digits.labels[:4], norm="l2", radius=1.0
    )
    correct = found.status != Status.MISCLASSIFIED
    assert (found.status == Status.UNAVAILABLE)[correct].all()
    assert found.zero_gradient[correct].all()
    assert found.score.isnan().all()


def test_misclassified_images_have_no_score_and_cost_nothing(robust, digits):
    labels = (robust(digits.images[:3]).argmax(dim=1) + 1) % 10
    found = clever(robust, digits.images[:3], labels, norm="linf", radius=0.3)
    assert found.status.tolist() == [Status.MISCLASSIFIED] * 3
    assert found.score.isnan().all()
    assert found.backward.tolist() == [0, 0, 0]


def test_passes_are_those_of_the_samples(robust, digits):
    few = {"norm": "l2", "radius": 1.0, "blocks": 10, "block_size": 8, "tolerance": 0}
    images, labels = digits.images[3:7], digits.labels[3:7]
    every = clever(robust, images, labels, pruning=float("inf"), **few)
    # Two calls on the clean image, one for its gradients, one forward pass for each sample whatever the targets.
    assert every.forward.tolist() == [3 + 80] * 4
    assert every.backward.tolist() == [9 * 81] * 4
    pruned = clever(robust, images, labels, **few)
    assert pruned.forward.tolist() == [3 + 80] * 4
    # Nine at the image, eight at least for each target of each block that is left.
    assert ((pruned.backward - 9) % 8 == 0).all()
    assert (pruned.backward >= 9 + 80).all()
    one = clever(robust, images, labels, targets="top-2", **few)
    assert one.forward.tolist() == [3 + 80] * 4
    assert one.backward.tolist() == [81] * 4


class TestStopping:
    few = {"norm": "l2", "radius": 0.6, "blocks": 40, "block_size": 16, "batch_size": 160}  # noqa: RUF012  # never changed

    def test_stops_when_the_interval_is_narrow(self, robust, digits):
        images, labels = digits.images[:12], digits.labels[:12]
        found = clever(robust, images, labels, tolerance=0.4, **self.few)
        correct = found.status != Status.MISCLASSIFIED
        assert set(found.blocks[correct].tolist()) == {20, 40}, "some images need more than others"
        half_width = found.lipschitz * (found.upper - found.lower) / 2 / found.margin
        early = correct & (found.blocks < 40) & (found.upper < 0.6)
        assert early.any()
        assert (half_width[early] <= 0.4).all()
        assert (found.forward[correct] == 3 + 16 * found.blocks[correct]).all()

    def test_stops_when_the_whole_interval_is_at_the_radius(self, robust, digits):
        few = self.few | {"radius": 0.01, "tolerance": 0}
        found = clever(robust, digits.images[3:6], digits.labels[3:6], **few)
        assert found.blocks.tolist() == [10] * 3
        assert found.lower.tolist() == found.upper.tolist() == pytest.approx([0.01] * 3)

    def test_no_tolerance_draws_everything(self, robust, digits):
        found = clever(robust, digits.images[3:6], digits.labels[3:6], tolerance=0, **self.few)
        assert found.blocks.tolist() == [40] * 3

    def test_images_that_stop_do_not_change_the_others(self, robust, digits):
        images, labels = digits.images[:8], digits.labels[:8]
        together = clever(robust, images, labels, tolerance=0.4, seed=list(range(8)), **self.few)
        for row in range(8):
            alone = clever(robust, images[[row]], labels[[row]], tolerance=0.4, seed=row, **self.few)
            torch.testing.assert_close(alone.score[0], together.score[row], rtol=1e-5, atol=0, equal_nan=True)
            assert alone.blocks[0] == together.blocks[row]


class TestSeveralNorms:
    few = {"radius": 0.8, "blocks": 12, "block_size": 8, "tolerance": 0.3, "seed": [5, 6, 7, 8]}  # noqa: RUF012

    def test_shared_pool_gives_each_norm_its_own_score(self, robust, digits):
        images, labels = digits.images[3:7], digits.labels[3:7]
        together = clever_norms(robust, images, labels, norms=NORMS, sampling="original", **self.few)
        alone = {norm: clever(robust, images, labels, norm=norm, sampling="original", **self.few) for norm in NORMS}
        for norm in NORMS:
            torch.testing.assert_close(together[norm].score, alone[norm].score, rtol=1e-5, atol=0)
            assert torch.equal(together[norm].target, alone[norm].target)
            assert torch.equal(together[norm].blocks, alone[norm].blocks)
        most = torch.stack([alone[norm].forward for norm in NORMS]).amax(dim=0)
        assert torch.equal(together["l2"].forward, most), "one pool: the norms cost no more than the dearest"

    def test_balls_are_not_shared(self, robust, digits):
        images, labels = digits.images[3:7], digits.labels[3:7]
        radius = {"linf": 0.2, "l2": 0.8}
        few = self.few | {"radius": radius}
        found = clever_norms(robust, images, labels, norms=["linf", "l2"], sampling="ball", **few)
        for norm, size in radius.items():
            alone = clever(robust, images, labels, norm=norm, sampling="ball", **self.few | {"radius": size})
            torch.testing.assert_close(found[norm].score, alone.score, rtol=1e-5, atol=0)

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"norms": []}, "got norms=\\(\\)"),
            ({"norms": ["l2", "l2"]}, "expected different ones"),
            ({"norms": ["l2"], "radius": {"l2": 1.0}, "sampling": "original"}, "one for all"),
            ({"norms": ["l2", "l1"], "radius": {"l2": 1.0}}, "got radii for l2, expected one for each of l2, l1"),
            ({"norms": ["l2"], "radius": {"l2": 1.0, "L1": 1.0}}, "got radii for l2, L1"),
        ],
    )
    def test_bad_arguments_are_refused(self, robust, digits, wrong, message):
        with pytest.raises(ValueError, match=message):
            clever_norms(
                robust, digits.images[:1], digits.labels[:1], **self.few | {"seed": 0, "sampling": "ball"} | wrong
            )


def test_radius_of_each_image(robust, digits):
    images, labels, few = digits.images[3:6], digits.labels[3:6], {"norm": "l2", "blocks": 5, "block_size": 4}
    radii = torch.tensor([0.3, 0.6, 0.9])
    found = clever(robust, images, labels, radius=radii, **few)
    for row, size in enumerate(radii.tolist()):
        alone = clever(robust, images[[row]], labels[[row]], radius=size, **few)
        torch.testing.assert_close(found.score[[row]], alone.score, rtol=1e-5, atol=0)
    tiny = clever(robust, images, labels, radius=torch.full((3,), 1e-3), **few)
    assert tiny.saturated.all()


def test_original_cloud_holds_only_a_small_ball_in_linf(robust, digits):
    few = {"sampling": "original", "radius": 0.08, "blocks": 5, "block_size": 4}
    found = clever(robust, digits.images[3:5], digits.labels[3:5], norm="linf", **few)
    assert found.saturated.all()
    assert found.score.tolist() == pytest.approx([0.08 / 8] * 2), "sixty-four pixels: radius / 8"


def test_radius_of_the_original_law_is_uniform():
    generator = torch.Generator().manual_seed(0)
    drawn = perturbations("original", "linf", 4000, (3, 4, 4), generator, torch.float64)
    assert stats.kstest(vector_norm(drawn, "l2").numpy(), "uniform").pvalue > 0.01


def test_targets_by_name(robust, digits):
    images, labels = digits.images[3:9], digits.labels[3:9]
    logits = robust(images).scatter(1, labels[:, None], -torch.inf)
    few = {"norm": "l2", "radius": 5.0, "blocks": 3, "block_size": 2}
    assert torch.equal(clever(robust, images, labels, targets="top-2", **few).target, logits.argmax(dim=1))
    lowest = robust(images).scatter(1, labels[:, None], torch.inf).argmin(dim=1)
    assert torch.equal(clever(robust, images, labels, targets="least-likely", **few).target, lowest)
    seeds = list(range(6))
    drawn = clever(robust, images, labels, targets="random", seed=seeds, **few).target
    assert (drawn != labels).all()
    assert torch.equal(clever(robust, images, labels, targets="random", seed=seeds, **few).target, drawn)
    assert (
        len({int(clever(robust, images[:1], labels[:1], targets="random", seed=s, **few).target) for s in range(30)})
        > 5
    )


@pytest.mark.parametrize(("height", "unavailable"), [(-0.1, True), (0.2, False)])
def test_half_of_the_gradients_being_zero_is_masking(robust, digits, height, unavailable):
    """A network that is flat above a plane below or above the image: more than half of the samples, or fewer."""
    image, label = digits.images[3:4], digits.labels[3:4]
    plane = torch.randn(64, generator=torch.Generator().manual_seed(1))
    flat = []

    def model(images):
        above = (images - image).flatten(1) @ (plane / plane.norm()) > height
        flat.extend(above.tolist())
        return torch.where(above[:, None], robust(images).detach(), robust(images))

    few = {"norm": "l2", "radius": 2.0, "blocks": 12, "block_size": 16, "seed": 3, "tolerance": 0}
    found = clever(model, image, label, targets="top-2", **few)
    share = sum(flat) / len(flat)
    assert 0.5 < share < 0.9 if unavailable else 0.05 < share < 0.5, "neither clear at once nor trivial"
    assert bool(found.zero_gradient) is unavailable
    assert (int(found.status) == Status.UNAVAILABLE) is unavailable
    assert int(found.forward) == 3 + 12 * 16, "judged at the end"


def test_no_gradient_at_all_ends_the_sampling(robust, digits):
    few = {"norm": "l2", "radius": 2.0, "blocks": 10, "block_size": 16}
    flat = clever(lambda x: robust(x).detach() + 0 * robust(x), digits.images[3:4], digits.labels[3:4], **few)
    assert bool(flat.zero_gradient)
    assert int(flat.status) == Status.UNAVAILABLE
    assert int(flat.forward) == 3 + 16, "the first block shows it, and no more is drawn"


@pytest.mark.parametrize("norm", NORMS)
def test_gradients_that_are_not_of_the_function_are_masking(robust, digits, norm):
    """Rounded logits with a trace of the true ones: gradients are there, finite, and a million times too small."""

    def model(images):
        logits = robust(images)
        return (logits.detach() * 1e3).round() / 1e3 + 1e-6 * logits

    few = {"norm": norm, "radius": {"linf": 0.25, "l2": 1.25, "l1": 6.0}[norm], "blocks": 6, "block_size": 8}
    found = clever(model, digits.images[3:7], digits.labels[3:7], **few)
    assert found.masked_gradient.all()
    assert (found.status == Status.UNAVAILABLE).all()
    assert found.score.isnan().all()
    assert found.maxima.isnan().all()
    assert (found.target == -1).all()


def test_saturated_softmax_gives_no_score(robust, digits):
    """The logarithm of a softmax of logits times 10,000: its gradients vanish wherever the network is sure."""

    def model(images):
        return (1e4 * robust(images)).softmax(dim=1).log2().clamp_min(-100)

    found = clever(model, digits.images[3:7], digits.labels[3:7], norm="l2", radius=0.2, blocks=6, block_size=8)
    assert (found.status == Status.UNAVAILABLE).all()
    assert (found.zero_gradient | found.masked_gradient | found.broken_gradient).all()


def test_samples_that_miss_a_steep_place_are_no_masking():
    """One pixel, a step of width 0.05: true gradients, and samples on both sides that show the steepest slope."""

    def model(images):
        step = 2 - 1.5 * torch.sigmoid(40 * (images.flatten(1)[:, 0] - 0.5))
        return torch.stack([step, 0 * step], dim=1)

    image, few = torch.full((1, 1, 1, 1), 0.45), {"norm": "linf", "radius": 0.5, "blocks": 5, "block_size": 1}
    for seed in range(30):
        found = clever(model, image, torch.tensor([0]), seed=seed, **few)
        assert not found.masked_gradient
        assert found.status in (Status.ESTIMATED, Status.SATURATED)
        assert float(found.lipschitz) >= 1.5 * 40 * float(torch.sigmoid(torch.tensor(-2.0))) * 0.88 * 0.99, (
            "at the image"
        )


def test_gradient_at_the_image_counts():
    """A margin that is steep within 0.05 of the image only, where no sample of 64 pixels falls."""

    def model(images):
        away = images.flatten(1) - 0.5
        along, squared = away.sum(dim=1) / 8, (away**2).sum(dim=1)
        margin = 1.5 - along - 2 * along * torch.exp(-squared / 0.05**2)
        return torch.stack([margin, 0 * margin, 0 * margin - 0.1], dim=1)

    image = torch.full((1, 1, 8, 8), 0.5) + 1e-6
    found = clever(model, image, torch.tensor([0]), norm="l2", radius=1.5, blocks=5, block_size=8)
    assert float(found.lipschitz) == pytest.approx(3, rel=1e-3)
    assert float(found.score) == pytest.approx(0.5, rel=1e-3)
    assert float(found.raw) == pytest.approx(0.5, rel=1e-3)


def test_a_hopeless_target_without_gradient_is_left_out():
    def model(images):
        value = images.flatten(1)[:, 0]
        return torch.stack([value, 0.2 - value, value - 100], dim=1)

    image, few = torch.full((1, 1, 1, 1), 0.6), {"norm": "l2", "radius": 2.0, "blocks": 5, "block_size": 4}
    found = clever(model, image, torch.tensor([0]), **few)
    assert int(found.status) == Status.ESTIMATED
    assert int(found.target) == 1
    assert float(found.score) == pytest.approx(0.5)
    assert int(clever(model, image, torch.tensor([0]), targets=torch.tensor([[2]]), **few).status) == Status.UNAVAILABLE


def test_zero_gradients_at_less_than_half_of_the_samples_are_no_masking():
    """A margin that is flat over a third of the ball: it has a score for every seed."""

    def model(images):
        value = images.flatten(1)[:, 0]
        return torch.stack([1 - (value - 0.37).relu(), 0 * value], dim=1)

    image, few = torch.full((1, 1, 1, 1), 0.5), {"norm": "linf", "radius": 0.4, "blocks": 20, "block_size": 12}
    for seed in range(20):
        found = clever(model, image, torch.tensor([0]), seed=seed, tolerance=0, **few)
        assert int(found.status) == Status.SATURATED
        assert float(found.lipschitz) == pytest.approx(1)


def test_infinite_gradient_does_not_reach_the_neighbours():
    """A gradient of 1e40 overflows float32."""

    def model(images):
        first, second = images.flatten(1).T
        return torch.stack([second + 1, 0.5 - second, 0.3 * torch.tanh((first - 0.25) * 1e20 * 1e20)], dim=1)

    images = torch.tensor([[0.25, 0.5], [0.7, 0.6]]).view(2, 1, 1, 2)
    few = {"norm": "linf", "radius": 0.9, "blocks": 4, "block_size": 4, "pruning": float("inf"), "seed": [1, 2]}
    found = clever(model, images, torch.tensor([0, 0]), **few)
    assert int(found.status[0]) == Status.UNAVAILABLE
    assert bool(found.broken_gradient[0])
    assert found.score[0].isnan()


def test_memory_that_does_not_suffice_for_the_clean_images(robust, digits):
    def model(images):
        if len(images) > 8:
            raise RuntimeError("can't allocate memory")
        return robust(images)

    few = {"norm": "l2", "radius": 0.5, "blocks": 3, "block_size": 4, "seed": list(range(20))}
    found = clever(model, digits.images[:20], digits.labels[:20], **few)
    plain = clever(robust, digits.images[:20], digits.labels[:20], **few)
    torch.testing.assert_close(found.score, plain.score, rtol=1e-5, atol=0, equal_nan=True)


@pytest.mark.parametrize("radius", [0.0, -1.0, float("nan"), 1e-50, 1e300, torch.tensor(0.0), torch.tensor([1.0, 2.0])])
def test_bad_radius_is_refused(robust, digits, radius):
    with pytest.raises(ValueError, match=r"got (a )?radius"):
        clever(robust, digits.images[:1], digits.labels[:1], norm="l2", radius=radius)


def test_memory_that_does_not_suffice_halves_the_batch(robust, digits):
    sizes = []

    def model(images):
        sizes.append(len(images))
        if len(images) > 10:
            raise torch.OutOfMemoryError
        return robust(images)

    few = {"norm": "l2", "radius": 0.5, "blocks": 12, "block_size": 16, "seed": 1, "tolerance": 0, "batch_size": 32}
    found = clever(model, digits.images[3:4], digits.labels[3:4], **few)
    plain = clever(robust, digits.images[3:4], digits.labels[3:4], **few)
    torch.testing.assert_close(found.score, plain.score, rtol=1e-5, atol=0)
    assert torch.equal(found.forward, plain.forward), "a pass that failed is none"
    assert [size for size in sizes if size > 10] == [16], "what did not fit is not tried again and again"


@pytest.mark.parametrize("norm", NORMS)
def test_samples_stay_in_the_box_and_in_the_ball(norm):
    seen = []

    def model(images):
        seen.append(images.detach().clone())
        return images.flatten(1)[:, :2] + torch.tensor([3.0, 0.0])

    image = torch.tensor([0.02, 0.98, 0.5, 0.5]).view(1, 1, 2, 2)
    clever(model, image, torch.tensor([0]), norm=norm, radius=0.1, blocks=5, block_size=10)
    points = torch.cat(seen)
    assert 0 <= float(points.min()) <= float(points.max()) <= 1
    assert float(vector_norm(points - image, norm).max()) <= 0.1 * (1 + 1e-5)
    # The gradient is constant: three blocks are enough, and the image.
    assert len(torch.unique(points, dim=0)) == 31, "all samples are fresh: none is drawn twice"


class Prototypes(torch.nn.Module):
    """Each of 120 digits is a class of its own: the logits fall with the squared distance to it."""

    def __init__(self, prototypes):
        super().__init__()
        self.register_buffer("prototypes", prototypes.flatten(1))

    def forward(self, images):
        return -torch.cdist(images.flatten(1), self.prototypes).square()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_many_targets_get_their_first_block_only_if_they_can_win(digits, norm, monkeypatch):
    """With 119 targets the scores are those of the full first block, up to other samples, for half of the gradients."""
    network, images, labels = Prototypes(digits.images[:120]).eval(), digits.images[:6], torch.arange(6)
    given = {"norm": norm, "radius": 0.2, "blocks": 10, "block_size": 8, "batch_size": 80, "seed": list(range(6))}
    found = clever(network, images, labels, **given)
    monkeypatch.setattr(importlib.import_module("metrics.clever"), "MANY_TARGETS", 10**6)
    whole = clever(network, images, labels, **given)
    assert (found.backward < 0.7 * whole.backward).all()
    assert found.target.equal(whole.target)
    torch.testing.assert_close(found.score, whole.score, rtol=0.05, atol=0)
    kept = clever(network, images, labels, **given, pruning=float("inf"))
    torch.testing.assert_close(found.score, kept.score, rtol=0.05, atol=0)


def test_many_targets_do_not_depend_on_the_batch(digits):
    network, images, labels = Prototypes(digits.images[:120]).eval(), digits.images[:4], torch.arange(4)
    given = {"norm": "l2", "radius": 0.2, "blocks": 10, "block_size": 8}
    together = clever(network, images, labels, **given, seed=list(range(4)), batch_size=80)
    for row in range(4):
        part = slice(row, row + 1)
        alone = clever(network, images[part], labels[part], **given, seed=[row], batch_size=80)
        torch.testing.assert_close(alone.score, together.score[part], rtol=1e-4, atol=0)
        assert alone.target.equal(together.target[part])
        assert alone.backward.equal(together.backward[part])
