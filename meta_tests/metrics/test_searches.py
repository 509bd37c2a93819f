"""What a search for adversarial points can be asked besides the nearest one, and what it survives."""

import numpy as np
import pytest
import torch
from torch import nn

from metrics import Attack, Status, adversarial_distance, class_distances
from metrics.norms import NORMS, vector_norm
from references.linear_models import closed_form, images_near_the_middle, linear_model

WEIGHTS, BIAS, LINEAR = linear_model(0)
IMAGES = images_near_the_middle(1, count=6)
LABELS = LINEAR(IMAGES).argmax(dim=1)


@pytest.mark.parametrize("norm", NORMS)
def test_two_classes_have_a_closed_form_to_the_target(norm):
    weights, bias = WEIGHTS[:2], BIAS[:2]
    images = images_near_the_middle(4, count=20)

    def model(points):
        return LINEAR(points)[:, :2]

    labels = model(images).argmax(dim=1)
    found = adversarial_distance(model, images, labels, norm=norm, targets=1 - labels)
    exact = closed_form(weights, bias, images, labels, norm)
    np.testing.assert_allclose(found.distance, exact, rtol=1e-3)


@pytest.mark.parametrize("norm", NORMS)
def test_targeted_images_get_the_target(robust, digits, norm):
    images, labels = digits.images[:12], digits.labels[:12]
    targets = (labels + 3) % 10
    found = adversarial_distance(robust, images, labels, norm=norm, targets=targets)
    untargeted = adversarial_distance(robust, images, labels, norm=norm)
    there = found.status == Status.ATTACKED
    assert there.float().mean() > 0.9
    assert (robust(found.adversarial).argmax(dim=1) == targets)[there].all()
    assert (found.distance >= 0.98 * untargeted.distance)[there & (untargeted.status == Status.ATTACKED)].all()


def test_an_image_of_the_target_class_has_distance_zero():
    runner_up = LINEAR(IMAGES).scatter(1, LABELS[:, None], -torch.inf).argmax(dim=1)
    # Said to be of another class than the model thinks, which is the target.
    found = adversarial_distance(LINEAR, IMAGES, runner_up, norm="l2", targets=LABELS)
    assert found.status.tolist() == [Status.MISCLASSIFIED] * 6
    assert found.distance.tolist() == [0] * 6
    # Misclassified, and not as the target: the way to the target has a length.
    third = torch.tensor([({0, 1, 2, 3} - {int(a), int(b)}).pop() for a, b in zip(LABELS, runner_up, strict=True)])
    found = adversarial_distance(LINEAR, IMAGES, runner_up, norm="l2", targets=third)
    assert found.status.tolist() == [Status.ATTACKED] * 6
    assert (found.distance > 0).all()


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (LABELS, "got target . for image 0, expected another class than its label"),
        (LABELS[:3] + 1, r"got targets \(3,\) of torch.int64, expected torch.int64 of shape \(6,\)"),
        ((LABELS + 1).float(), "of torch.float32, expected torch.int64"),
        ([1] * 6, "got targets list, expected torch.int64"),
        (LABELS + 4, "got targets from . to ., expected 0 to 3: the model has 4 classes"),
    ],
)
def test_bad_targets_are_refused(targets, message):
    with pytest.raises(ValueError, match=message):
        adversarial_distance(LINEAR, IMAGES, LABELS, norm="l2", targets=targets)


@pytest.mark.parametrize("norm", NORMS)
def test_distances_to_the_nearest_classes(norm):
    found = class_distances(LINEAR, IMAGES, LABELS, norm=norm, count=3)
    assert found.distance.shape == found.classes.shape == (6, 3)
    assert (found.classes != LABELS[:, None]).all()
    np.testing.assert_allclose(found.distance.amin(dim=1), closed_form(WEIGHTS, BIAS, IMAGES, LABELS, norm), rtol=1e-3)
    predicted = LINEAR(found.adversarial.flatten(0, 1)).argmax(dim=1).view(6, 3)
    assert torch.equal(predicted, found.classes)
    reached = vector_norm(found.adversarial.flatten(0, 1) - IMAGES.repeat_interleave(3, dim=0), norm).view(6, 3)
    torch.testing.assert_close(reached, found.distance)


@pytest.mark.parametrize("norm", NORMS)
def test_iterated_pgd_ends_within_a_step_of_its_path(norm):
    """On a linear model it goes nearly straight on, and sign steps are the shortest ones in L-infinity."""
    found = adversarial_distance(LINEAR, IMAGES, LABELS, norm=norm, method="iterated-pgd", effort="thorough")
    exact = closed_form(WEIGHTS, BIAS, IMAGES, LABELS, norm)
    assert (found.status == Status.ATTACKED).all()
    assert (found.attack == Attack.ITERATED_PGD).all()
    assert (found.distance >= exact * (1 - 1e-4)).all()
    # Cross-entropy does not descend the margin to the nearest class alone, and dense steps are long in L1.
    assert (found.distance <= exact * {"linf": 1.5, "l2": 1.5, "l1": 8}[norm] + 1e-3).all()
    step = {"linf": 0.0004, "l2": 0.005, "l1": 0.2}[norm]
    assert (found.bracket <= step / 2**8 * 1.05).all()
    assert (found.adversarial.amin(), found.adversarial.amax()) >= (0, 0)


def test_iterated_pgd_finds_nothing_out_of_its_reach():
    """Two planted radii, on both sides of 80 steps of 0.0004."""

    def model_of(radius):
        def model(images):
            reach = radius - vector_norm(images - 0.5, "linf")
            return torch.stack([reach, -reach], dim=1)

        return model

    start = torch.full((1, 1, 2, 2), 0.5)
    start[0, 0, 0, 0] += 0.001
    options = {"norm": "linf", "method": "iterated-pgd", "effort": "quick"}
    near = adversarial_distance(model_of(0.03), start, torch.tensor([0]), **options)
    far = adversarial_distance(model_of(0.04), start, torch.tensor([0]), **options)
    assert float(near.distance) == pytest.approx(0.029, abs=0.0004)
    assert far.status.tolist() == [Status.CENSORED]
    assert far.distance.isinf().all()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["boundary-descent", "iterated-pgd"])
def test_path_has_every_query(robust, digits, method):
    images, labels = digits.images[:7], digits.labels[:7]
    options = {"norm": "l2", "method": method, "batch_size": 3}
    found = adversarial_distance(robust, images, labels, record_path=True, **options)
    plain = adversarial_distance(robust, images, labels, **options)
    assert plain.path is None
    assert torch.equal(plain.distance, found.distance), "recording changes nothing"
    path = found.path
    assert set(path.image.tolist()) == set((found.status != Status.MISCLASSIFIED).nonzero().flatten().tolist())
    for image in set(path.image.tolist()):
        mine = path.image == image
        # The very point, unless rounding has turned it back when it was verified, and it was pushed outwards.
        nearest = float(path.distance[mine & (path.margin <= 0)].amin())
        assert nearest == pytest.approx(float(found.distance[image]), rel=1e-6)
        # Two calls check the model, two verify, and one takes the gradients of the classes.
        apart = {"boundary-descent": 5, "iterated-pgd": 4}[method]
        assert int(found.forward[image]) - int(mine.sum()) == apart


def test_path_of_images_that_are_not_attacked_is_empty(robust, digits):
    labels = (robust(digits.images[:4]).argmax(dim=1) + 1) % 10
    for batch_size in (1, 4):
        found = adversarial_distance(
            robust, digits.images[:4], labels, norm="l2", record_path=True, batch_size=batch_size
        )
        assert len(found.path.image) == len(found.path.margin) == 0


def test_bracket_is_what_is_left_of_the_line(robust, digits):
    images, labels = digits.images[:20], digits.labels[:20]
    found = adversarial_distance(robust, images, labels, norm="l2")
    rows = found.status == Status.ATTACKED
    assert (found.bracket[~rows] == 0).all()
    assert (found.bracket[rows] > 0).all()
    assert float((found.bracket / found.distance)[rows].median()) < 0.01
    # A little more: the near end may be nearer to the boundary than rounding can tell.
    inner = 1 - 1e-5 - found.bracket / found.distance.clamp_min(1e-9)
    back = torch.lerp(images, found.adversarial, inner.view(-1, 1, 1, 1))
    # Of those that the line search has ended, the point at the near end is still classified correctly.
    assert (robust(back).argmax(dim=1) == labels)[rows].float().mean() > 0.9


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: not enough memory: you tried")],
)
def test_out_of_memory_halves_the_batch(error):
    largest = []

    def model(images):
        if len(images) > 3:
            raise error
        largest.append(len(images))
        return LINEAR(images)

    found = adversarial_distance(model, IMAGES, LABELS, norm="l2", seed=[1, 2, 3, 4, 5, 6])
    assert max(largest) == 3
    alone = adversarial_distance(LINEAR, IMAGES, LABELS, norm="l2", seed=[1, 2, 3, 4, 5, 6], batch_size=3)
    assert torch.equal(found.distance, alone.distance), "the noise of an image is the same after another try"


def test_too_little_memory_for_one_image():
    def model(images):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(MemoryError, match="got too little memory for the model and one image"):
        adversarial_distance(model, IMAGES, LABELS, norm="l2")


def test_other_runtime_errors_are_the_users():
    def model(images):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        adversarial_distance(model, IMAGES, LABELS, norm="l2")


def test_autocast_of_the_caller_does_not_change_the_verdict(robust, digits):
    images, labels = digits.images[:6], digits.labels[:6]
    plain = adversarial_distance(robust, images, labels, norm="l2", effort="quick")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = adversarial_distance(robust, images, labels, norm="l2", effort="quick")
    assert torch.equal(plain.distance, inside.distance)


class WinnersTakeAll(nn.Module):
    """Keep the largest tenth of the values, set all others to 0 (Xiao et al. 2020): the gradient jumps everywhere."""

    def forward(self, features):
        kept = features.flatten(1).topk(max(features[0].numel() // 10, 1), dim=1).values[:, -1]
        return features * (features >= kept.view(-1, *[1] * (features.dim() - 1)))


def with_winners(network):
    """The shared CNN whose ReLUs are replaced, as if it had been trained so."""
    for position, layer in enumerate(network.network):
        if isinstance(layer, nn.ReLU):
            network.network[position] = nn.Sequential(nn.ReLU(), WinnersTakeAll())
    return network.eval()


@pytest.mark.slow
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", ["quantised", "saturated", "winners take all"])
def test_masked_gradients(cifar10, cifar10_network, kind, norm):
    """A verified distance on nearly every image, and never one that is not true."""
    network = cifar10_network("cnn_a_standard")
    model = {
        "quantised": lambda images: (network(images) / 0.1).round() * 0.1,
        # The margin is flat, to the last bit, but for a narrow strip along the boundary.
        "saturated": lambda images: torch.tanh(20 * (network(images) - network(images).amax(dim=1, keepdim=True))),
        "winners take all": with_winners(cifar10_network("cnn_a_standard")),
    }[kind]
    images, labels = cifar10.images[:60], cifar10.labels[:60]
    found = adversarial_distance(model, images, labels, norm=norm)
    logits = model(images)
    own = logits.gather(1, labels[:, None])[:, 0]
    correct = own > logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1)
    assert correct.sum() >= 10
    assert (found.status[~correct] == Status.MISCLASSIFIED).all()
    assert (found.status[correct] == Status.ATTACKED).float().mean() >= 0.95
    rows = found.status == Status.ATTACKED
    assert (model(found.adversarial).argmax(dim=1) != labels)[rows].all()
    torch.testing.assert_close(vector_norm(found.adversarial - images, norm)[rows], found.distance[rows])
    assert found.distance[found.status == Status.CENSORED].isinf().all()
