"""Accuracies that RobustBench states: the table, which run they are for, and what they are compared with."""

import hashlib
import math
import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10

from metrics import Status
from robustness_tests import test_leaderboard
from robustness_tests.subjects import robustbench_zoo
from robustness_tests.subjects.leaderboard import _stated, leaderboard_entry
from robustness_tests.subjects.robustbench_zoo import robustbench_module
from robustness_tests.subjects.sources import dataset_source, model_source

CIFAR = dataset_source("cifar10", Path())
RESNET = "cifar10/Linf/Sehwag2021Proxy_R18"


def stated(location, dataset="cifar10"):
    of = dataset_source(dataset, Path())
    return leaderboard_entry(model_source(f"robustbench:{location}", of, Path()), of)


def test_every_row_is_plausible():
    rows = _stated()
    assert len(rows) == 236
    for location, one in rows.items():
        attacked = location.split("/")[1] in ("Linf", "L2")
        assert (one.norm != "") == (one.robust is not None) == (one.epsilon != "") == attacked, location
        assert 0.4 < one.clean < 1, location
        if attacked:
            assert 0 < one.size <= 0.5
            assert 0 <= one.robust <= one.autoattack < one.clean
            assert one.external is None or one.external <= one.autoattack


def test_known_figures():
    """As on the leaderboard."""
    assert str(stated("cifar10/Linf/Standard")) == "clean 94.78%, AutoAttack at linf 8/255 0.00%"
    unreliable = stated("cifar10/Linf/Xiao2020Enhancing")
    assert unreliable.unreliable
    assert str(unreliable).endswith("of which that of AutoAttack is called potentially unreliable")
    sparse = stated("cifar10/L2/Amini2024MeanSparse_S-WRN-70-16")
    assert (sparse.norm, sparse.size, sparse.robust) == ("l2", 0.5, pytest.approx(0.8433))
    assert str(sparse).endswith("AutoAttack at l2 0.5 87.28%, a stronger attack at l2 0.5 84.33%")
    augmix = model_source("robust", CIFAR, Path())
    assert str(leaderboard_entry(augmix, CIFAR)) == "clean 95.08%"
    assert stated("cifar100/Linf/Addepalli2021Towards_WRN34", "cifar100").clean == 0.6573


@pytest.mark.parametrize(
    ("model", "dataset"),
    [
        ("robustbench:cifar10/Linf/Standard", "cifar100"),
        ("robustbench:cifar10/Linf/Standard", "cifar10-c:fog:3"),
        ("robustbench:imagenet/Linf/Standard_R50", "cifar10"),
        ("robustbench:cifar10/Linf/Nobody2030", "cifar10"),
        ("torchvision:resnet18", "cifar10"),
        ("robust", "digits"),
    ],
)
def test_of_other_models_and_data_nothing_is_stated(model, dataset):
    of = dataset_source(dataset, Path())
    assert leaderboard_entry(model_source(model, of, Path()), of) is None


def judged(test, **given):
    """What the property measures; raises what it raises."""
    figures = {}
    test(measured=lambda **some: figures.update(some), **given)
    return figures


@pytest.mark.parametrize(("right", "agrees"), [(895, True), (864, True), (927, True), (863, False), (928, False)])
def test_clean_accuracy_is_compared(right, agrees):
    """89.69 % are stated; of 1,000 images, the interval at 99.9 % is about 3 points to each side."""
    model = SimpleNamespace(name="net", right=lambda count: {image: image < right for image in range(count)})
    given = {
        "model": model,
        "leaderboard": stated("cifar10/Linf/Carmon2019Unlabeled"),
        "run": SimpleNamespace(accuracy_images=1000),
    }
    if agrees:
        figures = judged(test_leaderboard.test_clean_accuracy_agrees_with_leaderboard, **given)
        assert (figures["threshold"], figures["needed"]) == (0.8969, "equal")
    else:
        with pytest.raises(
            AssertionError, match=rf"net classifies {right} of 1000 images .* expected the 89\.69% that"
        ):
            judged(test_leaderboard.test_clean_accuracy_agrees_with_leaderboard, **given)


@pytest.mark.parametrize(("robust", "agrees"), [(0, True), (60, True), (75, True), (76, False)])
def test_robust_accuracy_is_compared(robust, agrees):
    """59.53 % are stated at 8/255. Less is no contradiction: this attack may be the stronger one."""

    def adversarial_distance(model, image, *, norm):
        assert (model.name, norm) == ("net", "linf")
        distance = 8 / 255 + (1e-6 if image < robust else -1e-6)
        return SimpleNamespace(distance=distance, status=Status.ATTACKED)

    given = {
        "model": SimpleNamespace(name="net"),
        "leaderboard": stated("cifar10/Linf/Carmon2019Unlabeled"),
        "norm": "linf",
        "adversarial_distance": adversarial_distance,
        "images": range(100),
        "run": SimpleNamespace(effort="default"),
    }
    test = test_leaderboard.test_robust_accuracy_not_above_leaderboard
    if not agrees:
        with pytest.raises(AssertionError, match=rf"keeps the label of {robust} of 100 images .* at most the 59\.53%"):
            judged(test, **given)
        return
    figures = judged(test, **given)
    assert figures["threshold"] == 0.5953
    assert math.isclose(figures["estimate"].value, robust / 100)
    with pytest.raises(pytest.skip.Exception, match="states no robust accuracy of net in l2"):
        judged(test, **given | {"norm": "l2"})


PATCH = """
from torchvision.datasets import CIFAR10
CIFAR10.test_list = [["test_batch", "{test_batch}"]]
CIFAR10.train_list = []
CIFAR10.meta = {{**CIFAR10.meta, "md5": "{meta}"}}
"""


def robustbench_on_cifar10(folder, right):
    """A network of the zoo with random weights, 100 images, and labels of which so many are its predictions."""
    zoo, enums = robustbench_module("model_zoo"), robustbench_module("model_zoo.enums")
    dataset, threat, name = RESNET.split("/")
    torch.manual_seed(0)
    network = zoo.model_dicts[enums.BenchmarkDataset(dataset)][enums.ThreatModel(threat)][name]["model"]()
    (folder / "models" / dataset / threat).mkdir(parents=True)
    torch.save({"state_dict": network.state_dict()}, folder / "models" / dataset / threat / f"{name}.pt")
    network = robustbench_zoo.load(RESNET, folder)
    pixels = np.random.default_rng(0).integers(0, 256, (100, 3072), dtype=np.uint8)
    with torch.no_grad():
        predicted = network(torch.from_numpy(pixels).view(-1, 3, 32, 32) / 255).argmax(dim=1)
    labels = torch.where(torch.arange(100) < right, predicted, (predicted + 1) % 10)
    data = folder / CIFAR10.base_folder
    data.mkdir()
    files = {
        "test_batch": {"data": pixels, "labels": labels.tolist()},
        "batches.meta": {"label_names": list("abcdefghij")},
    }
    for file, content in files.items():
        (data / file).write_bytes(pickle.dumps(content))
    test_batch, meta = (hashlib.md5((data / file).read_bytes()).hexdigest() for file in files)
    (folder / "sitecustomize.py").write_text(PATCH.format(test_batch=test_batch, meta=meta))


@pytest.mark.parametrize(("right", "workers"), [(85, "-n0"), (50, "-n2")])
def test_a_model_of_robustbench_is_compared_with_its_leaderboard(gate, monkeypatch, right, workers):
    folder = gate.folder / "zoo"
    folder.mkdir()
    robustbench_on_cifar10(folder, right)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    few = ("--quick", "--images=2", "--dataset=cifar10", "--data-dir=zoo", "--against=", "-k", "leaderboard")
    result = gate(workers, "--model", f"robustbench:{RESNET}", *few)
    result.stdout.fnmatch_lines(["robustness: RobustBench states for Sehwag2021Proxy_R18: clean 84.59%, AutoAttack*"])
    clean = "test_clean_accuracy_agrees_with_leaderboard[Sehwag2021Proxy_R18-cifar10]"
    assert gate.values(clean)["value"] == right / 100
    outcomes = {record["test"].rpartition("::")[2]: record["outcome"] for record in gate.results()["records"]}
    agrees = right == 85
    assert outcomes == {
        clean: "passed" if agrees else "failed",
        "test_robust_accuracy_not_above_leaderboard[Sehwag2021Proxy_R18-cifar10-linf]": "passed",
    }
    assert result.ret == (0 if agrees else 1)
    report = (gate.results_folder / "report.html").read_text()
    assert "Stated by RobustBench, Sehwag2021Proxy_R18" in report
    assert "= 84.6% within the interval" in report
