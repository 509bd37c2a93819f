"""Models and data of users: every way to name them, loaded as they are, and through the gate at first try."""

import hashlib
import pickle
import shutil
import textwrap

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torchvision.datasets import CIFAR10

from meta_tests.subjects import wrong_subjects
from meta_tests.subjects.wrong_subjects import good, pair
from robustness_tests import Classifier
from robustness_tests.harness.subject import Subject
from robustness_tests.subjects import subject_check, training
from robustness_tests.subjects.catalog import DATASETS, MODELS
from robustness_tests.subjects.datasets import digits, load_dataset
from robustness_tests.subjects.images import from_object, images_and_labels
from robustness_tests.subjects.model_check import CheckedModel, check_network
from robustness_tests.subjects.models import load_model, model_digest
from robustness_tests.subjects.objects import code_of
from robustness_tests.subjects.sources import dataset_source, model_source
from robustness_tests.subjects.subject_check import MULTIPLICATIONS_AT_ONCE, _batch_size, rounded_up

CPU = torch.device("cpu")

NET = """
    import torch
    from torch import nn

    from shapes import SHAPES


    def stripes():
        generator = torch.Generator().manual_seed(0)
        labels = torch.arange(120) % 3
        images = 0.35 + 0.1 * torch.rand(120, 3, 6, 6, generator=generator)
        for image, label in zip(images, labels):
            image[label, :, ::2] += 0.2
        return images, labels


    class Net(nn.Module):
        def __init__(self, mean):
            super().__init__()
            self.mean = mean
            self.features = nn.Sequential(nn.Conv2d(3, SHAPES[0], 3, padding=1), nn.BatchNorm2d(SHAPES[0]), nn.Tanh())
            self.head = nn.Linear(SHAPES[0], 3)

        def forward(self, images):
            return self.head(self.features((images - self.mean) / 0.25).mean(dim=(2, 3)))


    def tiny_net(mean=0.5):
        torch.manual_seed(1)
        net, (images, labels) = Net(mean), stripes()
        optimizer = torch.optim.Adam(net.parameters(), 0.02)
        for _ in range(40):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(images), labels).backward()
            optimizer.step()
        return net.eval()


    def other_net():
        return tiny_net(mean=0.4)
"""


def write_network(folder):
    """A network and a data set that no test has seen, in a folder of the user, with a module beside it."""
    (folder / "work").mkdir()
    (folder / "work/net.py").write_text(textwrap.dedent(NET))
    (folder / "work/shapes.py").write_text("SHAPES = (8,)\n")
    from_net = load(f"{folder}/work/net.py:stripes", folder)
    pictures = (from_net.images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    np.savez(folder / "work/stripes.npz", images=pictures, labels=from_net.labels.numpy())


def load(text, folder, count=None):
    return load_dataset(dataset_source(str(text), folder), folder, count)


def network(text, folder, dataset="digits"):
    return load_model(model_source(str(text), dataset_source(dataset, folder), folder), folder, CPU)


def test_what_a_factory_sets_does_not_reach_what_is_measured(gate):
    """It was refused before, or measured in bfloat16."""
    write_network(gate.folder)
    newer = "torch.backends.cudnn.conv.fp32_precision = 'tf32'" if hasattr(torch.backends, "fp32_precision") else "pass"
    (gate.folder / "work/settings.py").write_text(
        "import torch\n"
        "from net import tiny_net\n"
        "def factory():\n"
        "    net = tiny_net()\n"
        "    torch.set_float32_matmul_precision('medium')\n"
        "    torch.set_default_dtype(torch.float64)\n"
        "    torch.set_num_threads(3)\n"
        f"    {newer}\n"
        "    return net\n"
    )
    (gate.folder / "mine").mkdir()
    (gate.folder / "mine/test_settings.py").write_text(
        "import torch\n"
        "def test_settings(candidate, adversarial_distance):\n"
        "    found = adversarial_distance(candidate, 0, norm='linf')\n"
        "    assert torch.get_float32_matmul_precision() == 'highest'\n"
        "    assert torch.get_default_dtype() == torch.float32\n"
        "    assert torch.get_num_threads() != 3\n"
    )
    few = ("-n0", "--quick", "--images=4", "--batch-size=4", "--norms=linf", "--certify=off")
    result = gate(*few, "--model=work/settings.py:factory", "--dataset=npz:work/stripes.npz", "mine")
    result.assert_outcomes(passed=1)


def test_a_class_is_called(tmp_path):
    """Also one that has `__getitem__`, as a subclass of `nn.Sequential` or of `Dataset` has."""
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    assert network(f"{tmp_path}/net.py:Net", tmp_path)(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize(("workers", "certify"), [("-n0", "auto"), ("-n2", "off")])
def test_unseen_network_and_data_run_at_first_try(gate, workers, certify):
    write_network(gate.folder)
    result = gate(
        workers,
        "--quick",
        "--images=6",
        "--batch-size=6",
        "--norms=linf",
        f"--certify={certify}",
        "--model=work/net.py:tiny_net",
        "--against=work/net.py:other_net",
        "--dataset=npz:work/stripes.npz",
        timeout=600,
    )
    assert result.ret in (0, 1), result.stdout.str() + result.stderr.str()
    content = gate.results()
    assert content["run"]["sources"] == {
        "net.tiny_net": "work/net.py:tiny_net",
        "net.other_net": "work/net.py:other_net",
    }
    assert content["run"]["dataset"] == "stripes"
    assert content["run"]["test_images"] == 120
    assert content["tests"]["missing"] == 0
    outcomes = {record["test"]: record["outcome"] for record in content["records"]}
    hard = ("is_real", "anchored", "certified_below", "within_certified", "informative")
    assert all(outcome != "failed" for test, outcome in outcomes.items() if any(name in test for name in hard))
    assert outcomes["robustness_tests/test_bounds.py::test_clever_below_distance[net.tiny_net-stripes-linf-00005]"]
    (clean,) = [row for row in content["properties"] if row["property_name"] == "test_clean_accuracy"]
    assert (clean["outcome"], clean["value"] > 0.9) == ("skipped", True), "nobody has said how accurate it has to be"
    page = (gate.results_folder / "report.html").read_text()
    assert "net.tiny_net (work/net.py:tiny_net)" in page
    result.stdout.fnmatch_lines(
        ["robustness: net.tiny_net (work/net.py:tiny_net) against*on stripes (npz:work/stripes.npz)*"]
    )


def test_without_another_model_nothing_is_compared(gate):
    write_network(gate.folder)
    result = gate(
        "-n0",
        "--quick",
        "--images=5",
        "--batch-size=5",
        "--model=work/net.py:tiny_net",
        "--dataset=npz:work/stripes.npz",
        "-k",
        "beats",
    )
    result.stdout.fnmatch_lines(["Not compared: no other model than net.tiny_net was given (--against)."])
    assert result.ret == 0


def test_thresholds_by_the_names_of_the_user(gate):
    write_network(gate.folder)
    (gate.folder / "mine.toml").write_text(
        '[datasets.stripes.clean_accuracy]\nleast = 0.5\n[models."net.tiny_net".clean_accuracy]\nleast = 1.0\n'
        '[noise_accuracy.stripes]\nl2 = { "0.5" = 0.01 }\n'
    )
    subjects = ("--model=work/net.py:tiny_net", "--dataset=npz:work/stripes.npz", "--thresholds=mine.toml")
    assert (
        gate("-n0", "--quick", "--images=5", "--batch-size=5", *subjects, "-k", "clean or noise", "--norms=l2").ret == 0
    )
    values = gate.values("test_noise_accuracy[net.tiny_net-stripes-l2-0.5]")
    assert values["threshold"] == 0.01
    assert gate.values("test_clean_accuracy")["threshold"] == 1.0


def test_two_models_of_one_name_are_told_apart(gate):
    write_network(gate.folder)
    shutil.copytree(gate.folder / "work", gate.folder / "older")
    arguments = ("--model=work/net.py:tiny_net", "--against=older/net.py:tiny_net", "--dataset=npz:work/stripes.npz")
    result = gate("-n0", "--quick", "--images=5", "--batch-size=5", *arguments, "-k", "is_real", "--norms=l2")
    assert result.ret == 0, result.stdout.str()
    assert set(gate.results()["run"]["sources"]) == {"net.tiny_net", "net.tiny_net.reference"}


def test_npz_folder_and_files_hold_the_same_images(tmp_path):
    """Bytes in npz, floats in npz, a pair in a file, a Dataset in a file, and PNG files: the same tensors."""
    shutil.copy(wrong_subjects.__file__, tmp_path / "mine.py")
    images, labels = pair()
    pictures = (images * 255).round().to(torch.uint8)
    rounded = pictures.float() / 255
    np.savez(tmp_path / "bytes.npz", images=pictures.permute(0, 2, 3, 1).numpy(), labels=labels.numpy())
    np.savez_compressed(tmp_path / "grey.npz", images=pictures[:, 0].numpy(), labels=labels.to(torch.uint8).numpy())
    np.savez(tmp_path / "floats.npz", images=images.double().numpy(), labels=labels.numpy())
    for name, expected in (("bytes", rounded), ("grey", rounded), ("floats", images)):
        found = load(f"npz:{name}.npz", tmp_path, 10)
        assert torch.equal(found.images, expected[:10])
        assert torch.equal(found.labels, labels[:10])
        assert (found.total, found.images.dtype, found.labels.dtype) == (60, torch.float32, torch.int64)
    for name in ("pair", "items"):
        found = load(f"mine.py:{name}", tmp_path, 10)
        assert torch.equal(found.images[:], images[:10])
        assert found.total == 60
    for row, label in enumerate(labels.tolist()):
        path = tmp_path / f"pictures/{label}/{row:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pictures[row, 0].numpy()).convert("RGB").save(path)
    found = load("folder:pictures", tmp_path, 9)
    assert found.labels.tolist() == list(range(9)), "one class after another"
    assert found.total == 60
    first = [int((labels == label).nonzero()[0]) for label in range(9)]
    assert torch.equal(found.images[:], rounded[first].expand(-1, 3, -1, -1))


def test_digest_of_a_batch_is_of_its_images_alone():
    some = digits("test")
    changed = images_and_labels(some.images.clone(), some.labels)
    changed.images[30] = 0
    assert changed.digest(slice(0, 20)) == some.digest(slice(0, 20))
    assert changed.digest(slice(20, 40)) != some.digest(slice(20, 40))


def test_digest_of_a_model_sees_code_constants_and_weights(tmp_path):
    write_network(tmp_path)
    images = load("npz:work/stripes.npz", tmp_path)
    source = model_source("work/net.py:tiny_net", dataset_source("npz:work/stripes.npz", tmp_path), tmp_path)
    net = load_model(source, tmp_path, CPU)
    before = model_digest(source, net, images, CPU)
    assert model_digest(source, net, images, CPU) == before
    net.mean = 0.501  # neither a weight nor code
    assert model_digest(source, net, images, CPU) != before


HELPED = """
    import torch
    from torch import nn

    import helper


    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(64, 10)

        def forward(self, images):
            return helper.identity(self.linear(images.flatten(1)))


    def net():
        torch.manual_seed(0)
        return Net().eval()
"""


def test_digest_of_a_model_sees_the_code_that_its_code_calls(tmp_path):
    """A function that changes the gradient alone, in a file beside: neither weights nor logits show it."""
    digests = set()
    for number, gradient in enumerate(("2", "3")):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "net.py").write_text(textwrap.dedent(HELPED))
        (folder / "helper.py").write_text(f"def identity(x):\n    return x.detach() + {gradient} * (x - x.detach())\n")
        source = model_source("net.py:net", dataset_source("digits", folder), folder)
        digests.add(model_digest(source, load_model(source, folder, CPU), digits("test"), CPU))
        assert {file.name for file in code_of(source, load_model(source, folder, CPU))} == {"net.py", "helper.py"}
    assert len(digests) == 2


def test_files_of_two_folders_have_their_own_neighbours(tmp_path):
    """The release case: the new version and the old one, each with a module `arch` beside it."""
    for name, factor in (("new", 1), ("old", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "arch.py").write_text(f"FACTOR = {factor}\n")
        (tmp_path / name / "net.py").write_text(textwrap.dedent(NEIGHBOURS))
    logits = {name: network(f"{name}/net.py:net", tmp_path)(torch.ones(1, 1, 1, 2)) for name in ("new", "old")}
    assert torch.equal(logits["old"], 2 * logits["new"])
    with pytest.raises(ValueError, match="arch"):
        # Which of both would it be? That is an error, and not chance.
        load(f"{tmp_path}/old/net.py:lazy", tmp_path)


NEIGHBOURS = """
    import torch
    from torch import nn

    import arch


    class Net(nn.Module):
        def forward(self, images):
            return images.flatten(1) * arch.FACTOR


    def net():
        return Net().eval()


    class Lazy:
        def __len__(self):
            return 2

        def __getitem__(self, row):
            import arch
            return torch.zeros(1, 2, 2) + 0.1 * arch.FACTOR, row


    lazy = Lazy()
"""


def test_networks_that_work_in_place_spoil_nothing(tmp_path):
    """The same network, in place and not: the same examination, the same digest, and the images as they were."""
    shutil.copy(wrong_subjects.__file__, tmp_path / "mine.py")
    images = digits("test")
    before = images.digest()
    checked = [
        check_network(wrong_subjects.Changed(before=change), images, CPU)
        for change in (lambda some: some * 0.9, lambda some: some.mul_(0.9))
    ]
    assert checked[0] == checked[1]
    source = model_source("robust", dataset_source("digits", tmp_path), tmp_path)
    in_place = wrong_subjects.Changed(before=lambda some: some.mul_(0.5))
    model_digest(source, in_place, images, CPU)
    Subject("in place", in_place, "digits", images, CPU, "").logits(images.images[:3])
    assert images.digest() == before


def test_names_of_bundled_things_are_not_for_files(tmp_path):
    for name in ("digits.npz", "cifar10.npz", "robust.pt"):
        (tmp_path / name).touch()
    assert dataset_source("npz:digits.npz", tmp_path).name == "digits.file"
    assert dataset_source("npz:cifar10.npz", tmp_path).name == "cifar10.file"
    assert model_source("robust.pt", dataset_source("digits", tmp_path), tmp_path).name == "robust.file"
    with pytest.raises(ValueError, match=r"got 'robust', expected, for this dataset, one of"):
        model_source("robust", dataset_source("npz:digits.npz", tmp_path), tmp_path)


def test_right_input_of_other_kinds_is_taken(tmp_path):
    """Lists, 8-bit integers, partial functions, infinite buffers, hidden folders, weak models of few images."""
    images, labels = pair()
    assert torch.equal(from_object((images, labels.tolist())).labels, labels)
    assert torch.equal(from_object([images.tolist(), labels.tolist()]).images, images)
    assert torch.equal(from_object((images.bfloat16(), labels.to(torch.int8))).labels, labels)
    two = from_object([(images[0], 1), (images[1], 0)])
    assert (two.total, two.labels.tolist()) == (2, [1, 0])
    masked = good()
    masked.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    check_network(masked, images_and_labels(images, labels), CPU)
    (tmp_path / "mine.py").write_text(
        "from functools import partial\nfrom meta_tests.subjects.wrong_subjects import good\nnet = partial(good)\n"
    )
    assert isinstance(network("mine.py:net", tmp_path), nn.Module)
    for name in ("cat", "dog", ".cache"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / f"pictures/{name}/a.png")
    found = load("folder:pictures", tmp_path)
    assert (found.class_names, found.labels.tolist()) == (("cat", "dog"), [0, 1])
    # 20 of 30 right, of two classes: better than guessing as far as anybody can tell.
    few = torch.rand(30, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    linear = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).eval()
    noisy = linear(few).argmax(dim=1)
    noisy[::3] = 1 - noisy[::3]
    check_network(linear, images_and_labels(few, noisy), CPU)


def test_seeds_do_not_depend_on_the_name_of_the_model(gate):
    """Candidate and reference are one network under two names: they get the same noise and the same samples."""
    write_network(gate.folder)
    shutil.copytree(gate.folder / "work", gate.folder / "copy")
    names = ("--model=work/net.py:tiny_net", "--against=copy/net.py:tiny_net", "--dataset=npz:work/stripes.npz")
    gate("-n0", "--quick", "--images=4", "--batch-size=4", *names, "--norms=l2", "-k", "clever_below_distance or beats")
    scores = {}
    for record in gate.results()["records"]:
        if "image" in record["about"]:
            scores.setdefault(record["about"]["image"], set()).add(record["values"]["clever"])
    assert scores
    assert all(len(of_image) == 1 for of_image in scores.values()), scores


def test_a_model_that_has_changed_since_it_was_looked_at_is_not_measured(gate):
    """The factory reads a file that the first test of the run writes."""
    shutil.copy(wrong_subjects.__file__, gate.folder)
    (gate.folder / "net.py").write_text(
        "from pathlib import Path\nfrom wrong_subjects import good\n\ndef net():\n    network = good()\n"
        "    if Path(__file__).with_name('flag').exists():\n        next(network.parameters()).data += 0.1\n"
        "    return network\n"
    )
    (gate.folder / "test_mine.py").write_text(
        "from pathlib import Path\n\ndef test_first():\n    Path(__file__).with_name('flag').touch()\n\n"
        "def test_second(candidate):\n    pass\n"
    )
    result = gate("-n0", "--model=net.py:net", "--against=net.py:net", "test_mine.py")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        ["*got another model from 'net.py:net' than the one that was looked at before the run*"]
    )


def test_saved_programs_are_the_network(tmp_path):
    images = pair()[0]
    batch = torch.export.Dim("batch")
    torch.export.save(torch.export.export(good(), (images[:2],), dynamic_shapes=({0: batch},)), tmp_path / "net.pt2")
    torch.jit.save(torch.jit.trace(good(), images[:2]), tmp_path / "net.pt")
    for file in ("net.pt2", "net.pt"):
        loaded = network(file, tmp_path)
        assert torch.allclose(loaded(images), good()(images), atol=1e-6)
        assert not any(module.training for module in loaded.modules())
        assert not any(parameter.requires_grad for parameter in loaded.parameters())
        check_network(loaded, digits("test"), CPU)


def test_dropout_in_a_program_is_found(tmp_path):
    images = pair()[0]
    random = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Dropout(0.5))
    program = torch.export.export(random.train(), (images[:2],), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, tmp_path / "net.pt2")
    with pytest.raises(ValueError, match="outputs that differ"):
        check_network(network("net.pt2", tmp_path), digits("test"), CPU)


def test_classifier_normalises_and_freezes():
    inside = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    classifier = Classifier(inside, normalize=([0.1, 0.2, 0.3], [0.5, 0.25, 0.125]))
    images = torch.rand(5, 3, 2, 2)
    mean, std = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1), torch.tensor([0.5, 0.25, 0.125]).view(3, 1, 1)
    assert torch.allclose(classifier(images), inside((images - mean) / std))
    assert not classifier.training
    assert not any(parameter.requires_grad for parameter in classifier.parameters())
    for bad in (([0.5], [0.0]), ([0.5], [0.5, 0.5]), ([torch.nan], [1.0])):
        with pytest.raises(ValueError, match=r"got .*expected"):
            Classifier(inside, normalize=bad)


def test_distance_of_a_linear_model_is_seen_at_once():
    """It is linear: the median of margin / dual norm is the median of its true distances."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(40, 1, 4, 4, generator=generator)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).eval()
    labels = linear(images).argmax(dim=1)
    checked = check_network(linear.requires_grad_(False), images_and_labels(images, labels), CPU)
    weights = linear[1].weight[0] - linear[1].weight[1]
    margins = (linear(images[:16])[:, 0] - linear(images[:16])[:, 1]).abs().median()
    for norm, dual in (("linf", 1), ("l2", 2), ("l1", torch.inf)):
        assert checked.distances[norm] == pytest.approx(
            float(margins / torch.linalg.vector_norm(weights, dual)), rel=1e-4
        )
    assert checked.multiplications == 32


@pytest.mark.parametrize(
    ("value", "expected"), [(0.0101, 0.02), (0.02, 0.02), (3.0, 5.0), (999.0, 1000.0), (1e-6, 1e-6)]
)
def test_radius_is_rounded_up(value, expected):
    assert rounded_up(value) == pytest.approx(expected)


def test_radius_is_three_times_the_largest_linear_distance(tmp_path):
    """Six times in L1; a bundled dataset has its own."""
    checked = [
        CheckedModel({"linf": 0.01, "l2": 0.1, "l1": 1.0}, 1),
        CheckedModel({"linf": 0.002, "l2": 0.3, "l1": 0.5}, 1),
    ]
    radii = subject_check._clever_radius(dataset_source("cifar10", tmp_path), checked)  # noqa: SLF001
    assert radii == pytest.approx({"linf": 0.05, "l2": 1.0, "l1": 10.0})
    of_digits = subject_check._clever_radius(dataset_source("digits", tmp_path), checked)  # noqa: SLF001
    assert of_digits == dict(DATASETS["digits"].clever_radius)


def test_a_user_is_told_about_classes_and_sorted_data():
    remarks = subject_check._remarks([0] * 20, ("cat", "dog"), 1)  # noqa: SLF001
    assert remarks[0] == "classes: 0 cat, 1 dog"
    assert remarks[1].startswith("the 20 images of this run are of 1 of the classes: is the dataset sorted by class?")
    assert subject_check._remarks([0, 1] * 10, (), 2) == []  # noqa: SLF001
    assert subject_check._remarks([0, 1, 2] * 10, (), 10), "3 classes of 10 in 30 images"  # noqa: SLF001
    assert not subject_check._remarks(list(range(7)) * 2, (), 10)  # noqa: SLF001


@pytest.mark.parametrize(("multiplications", "size"), [(1, 20), (MULTIPLICATIONS_AT_ONCE // 4, 4), (10**12, 1)])
def test_large_models_are_measured_in_small_batches(multiplications, size):
    assert _batch_size(multiplications) == size


def cifar_batch(folder, monkeypatch):
    """A test batch in the format of the authors, its digest made the known one."""
    generator = np.random.default_rng(0)
    content = {"data": generator.integers(0, 256, (30, 3072), dtype=np.uint8), "labels": list(range(10)) * 3}
    folder_of_data = folder / CIFAR10.base_folder
    folder_of_data.mkdir()
    files = {"test_batch": content, "batches.meta": {"label_names": list("abcdefghij")}}
    for name, value in files.items():
        (folder_of_data / name).write_bytes(pickle.dumps(value))
    digests = {name: hashlib.md5((folder_of_data / name).read_bytes()).hexdigest() for name in files}
    monkeypatch.setattr(CIFAR10, "train_list", [["test_batch", digests["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", digests["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": digests["batches.meta"]})
    return content


def test_models_for_cifar10_are_trained_on_its_files(tmp_path, monkeypatch, capsys):
    """On a few random images: weights of the bundled architecture, and the same ones again."""
    cifar_batch(tmp_path, monkeypatch)
    arguments = ["--dataset", "cifar10", "--model", "robust", "--epochs", "1", "--data-dir", str(tmp_path)]
    for folder in ("first", "second"):
        training.main([*arguments, "--output", str(tmp_path / folder)])
    assert "robust: clean accuracy" in capsys.readouterr().out
    name = "cifar10-sample-robust.safetensors"
    first, second = (load_file(tmp_path / folder / name) for folder in ("first", "second"))
    assert all(torch.equal(first[layer], second[layer]) for layer in first)
    assert first.keys() == load_file(MODELS["cifar10-sample", "robust"].weights).keys()


def test_missing_files_of_cifar10_end_the_training_in_a_sentence(tmp_path, monkeypatch, capsys):
    def no_download(dataset):
        raise OSError("no network")

    monkeypatch.setattr(CIFAR10, "download", no_download)
    with pytest.raises(SystemExit):
        training.main(["--dataset", "cifar10", "--data-dir", str(tmp_path), "--output", str(tmp_path / "weights")])
    assert "cifar-10-batches-py/data_batch_1, and no download" in capsys.readouterr().err


def test_cifar10_is_read_as_its_authors_wrote_it(tmp_path, monkeypatch):
    content = cifar_batch(tmp_path, monkeypatch)
    found = load("cifar10", tmp_path, 20)
    assert torch.equal(found.images, torch.from_numpy(content["data"][:20]).view(20, 3, 32, 32) / 255)
    assert found.labels.tolist() == content["labels"][:20]
    assert found.total == 30


def test_cifar10_that_somebody_has_changed_is_not_unpickled(tmp_path, monkeypatch):
    cifar_batch(tmp_path, monkeypatch)
    (tmp_path / CIFAR10.base_folder / "test_batch").write_bytes(pickle.dumps(wrong_subjects.Items))
    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:9/none")
    with pytest.raises(ValueError, match=r"got no valid CIFAR-10 file .*test_batch, and no download"):
        load("cifar10", tmp_path)


@pytest.mark.parametrize(("kind", "folder"), [("cifar10-c", "CIFAR-10-C"), ("cifar100-c", "CIFAR-100-C")])
def test_corrupted_cifar_is_read_by_severity(tmp_path, kind, folder):
    folder_of_data = tmp_path / folder
    folder_of_data.mkdir()
    images = np.zeros((50_000, 1, 1, 3), np.uint8)
    images[20_000:30_000] = 255
    np.save(folder_of_data / "fog.npy", images)
    np.save(folder_of_data / "labels.npy", (np.arange(50_000) % 10).astype(np.uint8))
    found = load(f"{kind}:fog:3", tmp_path, 100)
    assert found.images.shape == (100, 3, 1, 1)
    assert bool((found.images == 1).all())
    assert (found.total, found.labels[:3].tolist()) == (10_000, [0, 1, 2])
    assert not load(f"{kind}:fog:2", tmp_path, 100).images.any()


def test_names_of_the_study_are_robustbench_models_on_cifar10(tmp_path):
    cifar10 = dataset_source("cifar10", tmp_path)
    robust, standard = (model_source(name, cifar10, tmp_path) for name in ("robust", "standard"))
    assert (robust.name, robust.text) == ("robust", "robustbench:cifar10/corruptions/Hendrycks2020AugMix_WRN")
    assert (standard.name, standard.location) == ("standard", "cifar10/Linf/Standard")
    assert model_source("robust", dataset_source("digits", tmp_path), tmp_path).kind == "bundled"


@pytest.mark.parametrize(
    "text", ["robustbench:cifar10/L2/a b@c", "timm:hf_hub:x/y", "some.module:Net.make", "net.py:f"]
)
def test_names_can_be_in_ids_and_file_names(tmp_path, text):
    (tmp_path / "net.py").touch()
    name = model_source(text, dataset_source("digits", tmp_path), tmp_path).name
    assert not set(name) & set("/\\:@ []")


def test_bundled_dataset_has_the_size_that_the_catalog_says():
    card, images = DATASETS["digits"], digits("test").images
    assert (card.test_images, card.values) == (len(images), images[0].numel())
