"""Models that break attacks and scores: each case was found by a review and gave a wrong number once."""

import itertools
import random

import numpy as np
import pytest
import torch
from torch import nn

from metrics import Status, adversarial_distance, class_distances, clever, second_order_clever
from metrics.attacks import Attack, Search, line_search
from metrics.attacks.linearised import linearised
from metrics.attacks.shortlist import Shortlist
from metrics.box import nearest_beyond
from metrics.extreme_value import end_point
from metrics.norms import vector_norm
from metrics.passes import Passes
from references.linear_models import closed_form, images_near_the_middle, linear_model

WEIGHTS, BIAS, LINEAR = linear_model(0)
IMAGES = images_near_the_middle(1, count=6)
LABELS = LINEAR(IMAGES).argmax(dim=1)
EXACT = closed_form(WEIGHTS, BIAS, IMAGES, LABELS, "linf").numpy()


def attack(model, images=IMAGES, labels=LABELS, **other):
    return adversarial_distance(model, images, labels, norm="linf", **other)


@pytest.mark.parametrize("masked", [1e5, 1e9])
def test_a_class_that_is_masked_out_does_not_hide_the_others(masked):
    def model(images):
        return torch.cat([LINEAR(images), torch.full((len(images), 1), -masked)], dim=1)

    np.testing.assert_allclose(attack(model).distance, EXACT, rtol=1e-3)


def test_randomness_is_seen_beside_a_masked_class():
    def model(images):
        return torch.cat([LINEAR(images) + torch.rand(len(images), 4), torch.full((len(images), 1), -1e9)], dim=1)

    with pytest.raises(ValueError, match="expected a deterministic model"):
        attack(model)


@pytest.mark.parametrize("kept", [0.9, 0.5, 0.1])
def test_a_plateau_around_the_clean_image_is_left_behind(kept):
    """The gradient is zero until the margin has fallen to a part of what it was, and alive from there on."""
    clean = LINEAR(IMAGES)
    top = clean.gather(1, LABELS[:, None])[:, 0] - clean.scatter(1, LABELS[:, None], -torch.inf).amax(dim=1)

    def model_of(row):
        def model(images):
            logits, label = LINEAR(images), LABELS[row : row + 1].expand(len(images))[:, None]
            margin = logits.gather(1, label)[:, 0] - logits.scatter(1, label, -torch.inf).amax(dim=1)
            capped = margin.clamp(max=kept * float(top[row]))
            return torch.stack([capped, -capped], dim=1)

        return model

    ratios = [float(attack(model_of(row), IMAGES[[row]], torch.tensor([0])).distance) / EXACT[row] for row in range(6)]
    assert np.median(ratios) <= 1.05
    assert max(ratios) <= 1.5


@pytest.mark.parametrize("scale", [2.0, 1e2, 1e4])
def test_line_search_does_not_mind_a_lopsided_margin(scale):
    """Inside, the margin is large, outside it is small, and there is no gradient: only the way back is left."""
    direction = torch.ones(48) / 48

    def model(images):
        score = (images.flatten(1) @ direction).detach()
        inside = (score > 0.45).to(score)
        return torch.stack([inside * scale, 0.5 * (1 - inside)], dim=1)

    found = attack(model, torch.full((2, 3, 4, 4), 0.5), torch.tensor([0, 0]), effort="thorough")
    edge = (found.adversarial.flatten(1) @ direction - 0.5).abs()
    assert (found.status == Status.ATTACKED).all()
    np.testing.assert_allclose(edge, 0.05, rtol=0.01)


@pytest.mark.parametrize("scale", [1.0, 1e2, 1e4, 1e6])
def test_line_search_halves_its_bracket_at_every_second_step(scale):
    def model(images):
        inside = (images.flatten(1).mean(dim=1) > 0.3).float()
        return torch.stack([inside * scale, 2 - 2 * inside], dim=1)

    image, label = torch.full((1, 1, 2, 2), 0.5), torch.tensor([0])
    passes = Passes(model, 1, image.device)
    search = Search(passes, image, label, model(image), "linf")
    row = torch.tensor([0])
    search.query(torch.zeros_like(image), row, Attack.RANDOM_NOISE)
    assert float(search.distance) == 0.5
    line_search(search, row, steps=20)
    assert 0.2 <= float(search.distance) <= 0.2 + 0.5 / 2**9
    assert int(passes.forward) == 1 + 1 + 20


def broken(kind):
    """A gradient that is NaN or infinite at images whose first value is 0, and a forward pass that is not."""
    factor = {"nan": 0.0, "infinite": 1.0}[kind]
    return lambda images: LINEAR(images) + factor * torch.sqrt(images.flatten(1)[:, :1]) * torch.tensor([1.0, 0, 0, 0])


@pytest.mark.parametrize("kind", ["nan", "infinite"])
def test_broken_gradient_gives_no_score_and_leaves_the_neighbours_alone(kind):
    images = IMAGES.clone()
    images[2, 0, 0, 0] = 0
    model = broken(kind)
    labels = model(images).argmax(dim=1)
    found = clever(model, images, labels, norm="linf", radius=0.01, blocks=5, block_size=5)
    alone = clever(model, images[[1]], labels[[1]], norm="linf", radius=0.01, blocks=5, block_size=5)
    assert int(found.status[2]) == Status.UNAVAILABLE
    assert bool(found.broken_gradient[2])
    assert bool(found.score[2].isnan())
    torch.testing.assert_close(found.score[1], alone.score[0])
    assert int(clever(model, images[[2]], labels[[2]], norm="linf", radius=0.01).status) == Status.UNAVAILABLE


def test_attack_goes_on_after_a_broken_gradient():
    images = IMAGES.clone()
    images[2, 0, 0, 0] = 0
    labels = LINEAR(images).argmax(dim=1)
    exact = closed_form(WEIGHTS, BIAS, images, labels, "linf")
    assert float(attack(broken("nan"), images, labels).distance[2]) <= 1.3 * float(exact[2])


def test_caller_in_inference_mode_gets_the_same_numbers():
    plain, score = attack(LINEAR), clever(LINEAR, IMAGES, LABELS, norm="l2", radius=1.0)
    with torch.inference_mode():
        images, labels = IMAGES.clone(), LABELS.clone()
        assert torch.equal(attack(LINEAR, images, labels).distance, plain.distance)
        assert torch.equal(clever(LINEAR, images, labels, norm="l2", radius=1.0).score, score.score)
    with torch.no_grad():
        assert torch.equal(attack(LINEAR).distance, plain.distance)


def test_model_that_works_in_place_changes_nothing_of_the_caller():
    before = IMAGES.clone()

    def model(images):
        images.sub_(0.5)
        return LINEAR(images + 0.5)

    np.testing.assert_allclose(attack(model).distance, EXACT, rtol=1e-3)
    assert torch.equal(IMAGES, before)
    network = nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(48, 4)).eval()
    assert attack(network, labels=network(IMAGES.clone()).argmax(dim=1)).distance.isfinite().all()


def test_result_is_not_part_of_a_graph():
    found = attack(LINEAR, IMAGES.clone().requires_grad_(True))
    assert not found.distance.requires_grad
    assert not found.adversarial.requires_grad


def test_hidden_training_mode_is_seen():
    norm = nn.BatchNorm2d(3)
    with pytest.raises(ValueError, match="images do not influence each other"):
        attack(lambda images: LINEAR(norm(images)), labels=LINEAR(norm(IMAGES)).argmax(dim=1))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_logits_of_another_precision_are_taken(dtype):
    found = attack(lambda images: LINEAR(images).to(dtype))
    assert found.distance.dtype == torch.float32
    assert clever(lambda images: LINEAR(images).to(dtype), IMAGES, LABELS, norm="l2", radius=1.0).score.isfinite().any()


def test_much_more_effort_is_not_worse_without_gradients():
    distances = [
        attack(lambda images: LINEAR(images.detach()), effort=effort).distance.sum()
        for effort in ("quick", "default", "thorough")
    ]
    # One ray of noise more may be nearer at first and end further away: only much more effort is sure to help.
    assert distances[2] <= min(distances[:2])


def test_few_passes_are_spent_where_there_is_no_gradient():
    found = attack(lambda images: LINEAR(images.detach()))
    assert int(found.forward.max()) <= 110
    assert int(found.backward.max()) <= 60


@pytest.mark.parametrize("share", [0.01, 0.003])
@pytest.mark.parametrize("upper", [2.0, 10.0])
def test_maxima_of_two_values_end_at_the_larger(share, upper):
    """As for gradients of a network with few linear pieces: no reverse Weibull distribution fits, and the end-point
    would run away."""
    hit = torch.rand(200, 40, 24, generator=torch.Generator().manual_seed(0)) < share
    maxima = torch.where(hit, upper, 1.0).amax(dim=2)
    both = (maxima.amin(dim=1) < maxima.amax(dim=1)) & ((maxima == upper).sum(dim=1) > 1)
    found = end_point(maxima[both])
    assert float(found.estimate.median()) == upper
    assert float(found.degenerate.float().mean()) > 0.95
    assert float(((found.lower <= upper) & (upper <= found.upper)).float().mean()) > 0.95


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_logits_are_as_exact_as_the_model_returns_them(norm):
    """Images in double precision, and a model that works in single: the last bits depend on the batch."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(784, 10)).eval().requires_grad_(False)

    def model(images):
        return network(images.float())

    images = torch.rand(20, 1, 28, 28, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = model(images).argmax(dim=1)
    found = attack_in(norm, model, images, labels)
    alone = torch.cat([model(image[None]) for image in found.adversarial]).argmax(dim=1)
    assert (found.status == Status.ATTACKED).all()
    assert (alone != labels).all()


def attack_in(norm, model, images, labels, **other):
    return adversarial_distance(model, images, labels, norm=norm, **other)


def test_a_runner_up_that_is_masked_near_the_image_hides_nothing():
    """The slack for rounding is that of the point, not that of a logit of -1e9 somewhere else."""

    def model(images):
        bright = images.flatten(1).mean(dim=1)
        logits = torch.stack([torch.ones_like(bright), 3 * bright], dim=1)
        return torch.where((bright < 0.2)[:, None] & torch.tensor([[False, True]]), torch.tensor(-1e9), logits)

    found = attack(model, torch.full((1, 1, 2, 2), 0.15), torch.tensor([0]), effort="thorough")
    assert float(found.distance) == pytest.approx(1 / 3 - 0.15, rel=1e-2)


def test_a_tie_of_clean_logits_is_no_verdict():
    def dead(images):
        return torch.relu(images.flatten(1) * 4 - 1)

    found = attack(dead, torch.full((1, 1, 1, 3), 0.1), torch.tensor([0]), targets=torch.tensor([1]))
    assert found.status.tolist() == [Status.ATTACKED]
    assert float(found.distance) >= 0.15


def test_empty_batches_are_not_sent_to_the_model():
    seen = []

    def model(images):
        seen.append(len(images))
        return LINEAR((images * 4).round() / 4)

    labels = model(IMAGES).argmax(dim=1)
    for effort in ("quick", "default"):
        attack(model, labels=labels, effort=effort)
    assert min(seen) >= 1


def test_many_classes_take_no_more_memory(monkeypatch):
    """Of the boundaries of all classes only the nearest few are kept at once."""
    kept = []
    original = Shortlist.offer
    monkeypatch.setattr(Shortlist, "offer", lambda self, *a: (kept.append(len(self.points)), original(self, *a))[1])
    weights = torch.randn(200, 48, generator=torch.Generator().manual_seed(0))
    class_distances(lambda images: images.flatten(1) @ weights.T, IMAGES, torch.zeros(6).long(), norm="l2", count=2)
    assert len(kept) >= 199
    assert max(kept) == 2


@pytest.mark.parametrize("other", [{"effort": "bogus"}, {"seed": -1}, {"count": 0}])
def test_class_distances_checks_before_it_computes(other):
    calls = []
    with pytest.raises(ValueError, match="got "):
        class_distances(lambda images: calls.append(1) or LINEAR(images), IMAGES, LABELS, norm="l2", **other)
    assert not calls


def test_precision_of_the_logits_is_that_of_the_model():
    images = IMAGES.double()
    passes = Passes(lambda points: LINEAR(points).float(), len(images), images.device)
    passes.logits(images, torch.arange(len(images)))
    assert passes.eps == torch.finfo(torch.float32).eps


def test_kept_images_are_wrong_alone_as_well():
    """A model that favours the true class of an image that comes alone by a little more than rounding."""

    def model(images):
        logits = LINEAR(images)
        if len(images) == 1:
            nearest = (images - IMAGES).flatten(1).norm(dim=1).argmin()
            logits = logits + 1e-4 * torch.eye(4)[LABELS[nearest]]
        return logits

    found = attack(model)
    assert (found.status == Status.ATTACKED).all()
    alone = torch.cat([model(image[None]) for image in found.adversarial]).argmax(dim=1)
    assert (alone != LABELS).all()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_linearised_step_counts_what_the_box_has_taken(norm):
    """From a far point at the end of the box, one step to the nearest point of a plane."""
    weights = torch.tensor([4.0, 1.0, 0.5, 0.25])

    def model(images):
        score = images.flatten(1) @ weights - 1.2
        return torch.stack([score, -score], dim=1)

    image, label, row = torch.tensor([0.2, 0.9, 0.9, 0.9]).view(1, 1, 2, 2), torch.tensor([0]), torch.tensor([0])
    search = Search(Passes(model, 1, image.device), image, label, model(image), norm)
    search.query(torch.tensor([0.0, 0.2, 0.2, 0.1]).view(1, 1, 2, 2), row, Attack.RANDOM_NOISE)
    linearised(search, row, steps=1)
    missing = float(image.flatten() @ weights - 1.2)
    exact = vector_norm(nearest_beyond(image, weights.view(1, 1, 2, 2), torch.tensor([missing]), norm), norm)
    np.testing.assert_allclose(search.distance, exact, rtol=1e-3)
    assert missing > 0.8, "the first value alone does not suffice"


def compiled_module():
    return torch.compile(relu_network(), backend="aot_eager")


def compiled_in_place():
    network = relu_network()
    network.compile(backend="aot_eager")
    return network


def compiled_function():
    network = relu_network()
    return torch.compile(network.forward, backend="aot_eager")


def part_is_compiled():
    return nn.Sequential(nn.Identity(), compiled_module()).eval()


def relu_network():
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(IMAGES[0].numel(), 16), nn.ReLU(), nn.Linear(16, 4)).eval()


@pytest.mark.parametrize("make", [compiled_module, compiled_in_place, compiled_function, part_is_compiled])
def test_compiled_models_have_the_same_numbers(make):
    """A graph of theirs serves once: a second backward pass raises an error, or, with inductor, may be wrong."""
    eager, compiled = relu_network(), make()
    labels = eager(IMAGES).argmax(dim=1)
    expected, found = (attack(model, labels=labels, effort="quick") for model in (eager, compiled))
    torch.testing.assert_close(found.distance, expected.distance, rtol=1e-6, atol=0)
    assert (found.forward - expected.forward).unique().tolist() == [2], "one for each of three targets, not one for all"
    few = {"norm": "linf", "radius": 0.5, "blocks": 4, "block_size": 4}
    expected, found = (clever(model, IMAGES, labels, **few) for model in (eager, compiled))
    torch.testing.assert_close(found.score, expected.score, rtol=1e-6, atol=0)
    with pytest.raises(ValueError, match="got a compiled model, expected one that can be differentiated twice"):
        second_order_clever(compiled, IMAGES, labels, radius=0.5)


STATES = (random.getstate, lambda: str(np.random.get_state()), lambda: torch.get_rng_state().tolist())  # noqa: NPY002


class Unruly:
    """A network that does something else besides at each call."""

    def __init__(self, network, besides):
        self.network = network
        self.besides = besides
        self.kept = []

    def __call__(self, images):
        self.besides(self, images)
        return self.network(images)


def seeds_everything(_model, _images):
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)


UNRULY = {
    "seeds everything": seeds_everything,
    "draws random numbers": lambda _model, _images: (torch.rand(3), np.random.rand(), random.random()),  # noqa: NPY002
    "keeps its input": lambda model, images: model.kept.append(images),
    "sets threads": lambda _model, _images: torch.set_num_threads(2),
}


@pytest.mark.parametrize("besides", UNRULY.values(), ids=UNRULY)
def test_what_a_model_does_besides_changes_no_number(besides):
    network = relu_network()  # what an attack finds on it depends on random restarts
    labels = network(IMAGES).argmax(dim=1)
    models = (Unruly(network, besides), network)
    try:
        found = [attack(model, labels=labels).adversarial for model in models]
        np.testing.assert_array_equal(*found)
        scores = [clever(model, IMAGES, labels, norm="linf", radius=0.3).score for model in models]
        np.testing.assert_array_equal(*scores)
    finally:
        torch.set_num_threads(1)


def test_metrics_leave_global_random_states_alone():
    before = [state() for state in STATES]
    attack(LINEAR)
    clever(LINEAR, IMAGES, LABELS, norm="linf", radius=0.3)
    assert [state() for state in STATES] == before


def test_a_model_that_changes_from_call_to_call_gets_no_number():
    calls = itertools.count()

    def drifting(images):
        logits = LINEAR(images)
        return logits + 0.01 * next(calls) * torch.linspace(0, 1, logits.shape[1])

    with pytest.raises(ValueError, match="expected a deterministic model"):
        attack(drifting)


@pytest.mark.parametrize("fails", [MemoryError, OverflowError])
def test_an_exception_of_the_model_is_the_callers(fails):
    def raises_beside_an_image(images):
        if not any(torch.equal(image, one) for one in images for image in IMAGES):
            raise fails("a model's own")
        return LINEAR(images)

    with pytest.raises(fails, match="a model's own"):
        attack(raises_beside_an_image)


def test_nan_beside_an_image_is_refused():
    def model(images):
        near = (images - IMAGES[[2]]).flatten(1).abs().amax(dim=1)
        nan = (near > 0) & (near < EXACT[2])
        return LINEAR(images) + torch.where(nan, torch.nan, 0.0)[:, None]

    with pytest.raises(ValueError, match="got NaN or infinity among the logits of an image"):
        attack(model)
