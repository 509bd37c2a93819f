"""Attacks of other libraries, and a recorder that keeps the best point of any query, whatever an attack returns.

pip install adversarial-robustness-toolbox foolbox pyautoattack; adv-lib, if it is there, in addition.
"""

import contextlib
import io
import sys
import types
import warnings

import numpy as np
import torch
from torch import nn

from metrics.norms import vector_norm
from metrics.passes import margin, rounding_slack


class BudgetSpentError(Exception):
    """Every image has had its passes."""


class Recorder(nn.Module):
    """A model that counts the passes of each image and keeps its nearest adversarial point within the budget.

    A query belongs to the clean image that is nearest in L2: attacks drop, repeat and reorder rows as they like.
    """

    def __init__(self, network, images, labels, norm, budget):
        super().__init__()
        self.network, self.images, self.labels, self.norm, self.budget = network, images, labels, norm, budget
        self.slack = rounding_slack(network(images), labels, torch.finfo(images.dtype).eps)
        self.forward_passes = torch.zeros(len(images), dtype=torch.long)
        self.backward_passes = torch.zeros(len(images), dtype=torch.long)
        self.distance = torch.full((len(images),), torch.inf)
        self.adversarial = images.clone()

    def forward(self, points):
        open_ = self._open()
        if not open_.any():
            raise BudgetSpentError
        rows = torch.cdist(points.detach().flatten(1), self.images.flatten(1)).argmin(dim=1)
        self.forward_passes += torch.bincount(rows, minlength=len(self.images))
        logits = self.network(points)
        if logits.requires_grad:
            logits.register_hook(lambda _: self._count_backward(rows))
        self._record(points.detach(), rows, logits.detach(), open_[rows])
        return logits

    def _open(self):
        return (self.forward_passes < self.budget) & (self.backward_passes < self.budget)

    def _count_backward(self, rows):
        self.backward_passes += torch.bincount(rows, minlength=len(self.images))

    def _record(self, points, rows, logits, open_):
        inside = (points.flatten(1).amin(dim=1) >= 0) & (points.flatten(1).amax(dim=1) <= 1)
        fooled = margin(logits, self.labels[rows]) + self.slack[rows] <= 0
        distances = vector_norm(points - self.images[rows], self.norm)
        for query in (inside & fooled & open_ & (distances < self.distance[rows])).nonzero().flatten().tolist():
            if distances[query] < self.distance[rows[query]]:
                self.distance[rows[query]] = distances[query]
                self.adversarial[rows[query]] = points[query]

    def verified(self):
        """The distances of the points that are classified wrongly once more, in one batch."""
        with torch.no_grad():
            fooled = margin(self.network(self.adversarial), self.labels) < 0
        return torch.where(fooled, self.distance, torch.inf)


def foolbox(name, **parameters):
    def attack(recorder, images, labels):
        import foolbox  # noqa: PLC0415  # a peer is imported where it is used

        model = foolbox.PyTorchModel(recorder, bounds=(0, 1))
        return getattr(foolbox.attacks, name)(**parameters)(model, images, labels, epsilons=None)[0]

    return attack


def art(name, *, one_by_one=False, **parameters):
    """`one_by_one`: the radius of ART's APGD is one number, so each image is searched alone."""

    def attack(recorder, images, labels):
        import art.attacks.evasion  # noqa: PLC0415
        import art.estimators.classification  # noqa: PLC0415

        classifier = art.estimators.classification.PyTorchClassifier(
            recorder,
            loss=nn.CrossEntropyLoss(),
            input_shape=tuple(images.shape[1:]),
            nb_classes=10,
            clip_values=(0, 1),
            device_type="cpu",
        )
        make = getattr(art.attacks.evasion, name)
        if not one_by_one:
            made = make(classifier, batch_size=len(images), verbose=False, **parameters)
            return torch.from_numpy(made.generate(images.numpy(), labels.numpy()))
        for row in range(len(images)):
            made = None

            def run(epsilons, only, row=row):
                nonlocal made
                epsilon = float(epsilons[row])
                made = made or make(classifier, eps=epsilon, eps_step=epsilon, verbose=False, **parameters)
                made.eps, made.eps_step = epsilon, 2 * epsilon
                made.generate(images[only].numpy(), labels[only].numpy())

            search_radius(recorder, lambda epsilons, run=run, row=row: run(epsilons, [row]))
        return None

    return attack


def search_radius(recorder, run, steps=10):
    """Bisect the radius of each image: down to the best point so far, up twofold as long as there is none."""
    first = {"linf": 0.03, "l2": 0.5, "l1": 10.0}[recorder.norm]
    lower = torch.zeros(len(recorder.images))
    radius = torch.full_like(lower, first)
    for _ in range(steps):
        before = recorder.distance.clone()
        run(radius)
        found = recorder.distance < before
        lower = torch.where(found, lower, torch.maximum(lower, torch.minimum(radius, recorder.distance)))
        radius = torch.where(recorder.distance.isinf(), 2 * radius, 0.5 * (lower + recorder.distance))


def apgd(loss):
    """A radius for each image, in one batch; in L1 the projection takes one radius: each image is searched alone."""

    def attack(recorder, images, labels):
        from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted  # noqa: PLC0415

        make = APGDAttack_targeted if loss == "dlr-targeted" else APGDAttack
        norm = {"linf": "Linf", "l2": "L2", "l1": "L1"}[recorder.norm]
        runner_up = recorder.network(images).scatter(1, labels[:, None], -torch.inf).argmax(dim=1)

        def run(epsilons, rows):
            single = recorder.norm == "l1"
            epsilon = float(epsilons[rows][0]) if single else epsilons[rows].view(-1, 1, 1, 1)
            made = make(recorder, n_iter=98, norm=norm, eps=epsilon, seed=0, device="cpu", use_largereps=single)
            made.loss = loss
            made.init_hyperparam(images[rows])
            made.y_target = runner_up[rows]
            if single:
                parts = [int(share * 98) for share in (0.3, 0.3, 0.4)]
                made.decr_eps_pgd(images[rows], labels[rows], [3 * epsilon, 2 * epsilon, epsilon], parts)
            else:
                made.attack_single_run(images[rows], labels[rows])

        torch.manual_seed(0)
        if recorder.norm != "l1":
            search_radius(recorder, lambda epsilons: run(epsilons, torch.arange(len(images))))
            return
        for row in range(len(images)):
            search_radius(recorder, lambda epsilons, row=row: run(epsilons, torch.tensor([row])))

    return attack


def fab(*, targeted):
    """Untargeted: a gradient for each of ten classes. Targeted: class by class, as its own loop drops images."""

    def attack(recorder, images, labels):
        from pyautoattack.fab_pt import FABAttack_PT  # noqa: PLC0415

        norm = {"linf": "Linf", "l2": "L2", "l1": "L1"}[recorder.norm]
        made = FABAttack_PT(
            recorder, norm=norm, n_iter=55 if targeted else 100, targeted=targeted, seed=0, device="cpu"
        )
        torch.manual_seed(0)
        if not targeted:
            made.attack_single_run(images, labels)
            return
        for rank in range(2, 11):
            made.target_class = rank
            made.attack_single_run(images, labels, is_targeted=True)

    return attack


def adv_lib(name, **parameters):
    """Its wheel lacks the packages that it imports for plots; they are not used here."""

    def attack(recorder, images, labels):
        stub = types.ModuleType("visdom")
        stub.Visdom = object
        sys.modules.setdefault("visdom", stub)
        import adv_lib.attacks  # noqa: PLC0415

        return getattr(adv_lib.attacks, name)(recorder, images.clone(), labels, **parameters)

    return attack


ORDER = {"linf": float("inf"), "l2": 2, "l1": 1}
MORE_THAN_ENOUGH = 1000

PEERS = {
    "linf": {
        "foolbox FMN, step 10": foolbox("LInfFMNAttack", steps=MORE_THAN_ENOUGH, max_stepsize=10.0),
        "foolbox DeepFool": foolbox("LinfDeepFoolAttack", steps=100),
        "ART APGD, searched": art(
            "AutoProjectedGradientDescent", one_by_one=True, norm=np.inf, max_iter=50, nb_random_init=1
        ),
        "pyautoattack APGD-DLR, searched": apgd("dlr"),
        "pyautoattack APGD-T, searched": apgd("dlr-targeted"),
        "pyautoattack FAB": fab(targeted=False),
        "pyautoattack FAB-T": fab(targeted=True),
        "adv-lib PDPGD": adv_lib("pdpgd", norm=ORDER["linf"], num_steps=MORE_THAN_ENOUGH),
    },
    "l2": {
        "foolbox FMN": foolbox("L2FMNAttack", steps=MORE_THAN_ENOUGH),
        "foolbox DDN": foolbox("DDNAttack", steps=MORE_THAN_ENOUGH),
        "foolbox DeepFool": foolbox("L2DeepFoolAttack", steps=100),
        "ART APGD, searched": art(
            "AutoProjectedGradientDescent", one_by_one=True, norm=2, max_iter=50, nb_random_init=1
        ),
        "ART DeepFool": art("DeepFool", max_iter=100, nb_grads=10),
        "ART C&W": art("CarliniL2Method", initial_const=1, binary_search_steps=4, max_iter=30),
        "pyautoattack APGD-DLR, searched": apgd("dlr"),
        "pyautoattack APGD-T, searched": apgd("dlr-targeted"),
        "pyautoattack FAB": fab(targeted=False),
        "pyautoattack FAB-T": fab(targeted=True),
        "adv-lib PDGD": adv_lib("pdgd", num_steps=MORE_THAN_ENOUGH),
        "adv-lib ALMA": adv_lib("alma", num_steps=MORE_THAN_ENOUGH, distance="l2"),
        "adv-lib SuperDeepFool": adv_lib("sdf", steps=100),
    },
    "l1": {
        "foolbox FMN": foolbox("L1FMNAttack", steps=MORE_THAN_ENOUGH),
        "foolbox EAD": foolbox("EADAttack", binary_search_steps=9, steps=111, decision_rule="L1"),
        "pyautoattack APGD-DLR, searched": apgd("dlr"),
        "pyautoattack FAB": fab(targeted=False),
        "pyautoattack FAB-T": fab(targeted=True),
        "adv-lib PDPGD": adv_lib("pdpgd", norm=ORDER["l1"], num_steps=MORE_THAN_ENOUGH),
        "adv-lib ALMA": adv_lib("alma", num_steps=MORE_THAN_ENOUGH, distance="l1"),
    },
}


def run_peer(attack, network, images, labels, norm, budget=1000):
    """The recorder after an attack: of what it returns and of all that it tried, the best within the budget."""
    recorder = Recorder(network, images, labels, norm, budget).eval()
    with contextlib.suppress(BudgetSpentError), contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        returned = attack(recorder, images, labels)
        if returned is not None:
            recorder(returned.detach())
    return recorder
