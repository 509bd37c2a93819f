"""Wrong models and data: each ends before anything is measured, with exit status 4 and one line on what to do."""

import fnmatch
import os
import pickle
import shutil
from dataclasses import asdict

import numpy as np
import pytest
import sklearn.datasets  # noqa: F401  # here: pytester forgets what a test imports, and numpy.fft loads once
import torch
from PIL import Image

from meta_tests.subjects import wrong_subjects
from meta_tests.subjects.wrong_subjects import good, pair
from robustness_tests.subjects import subject_check
from robustness_tests.subjects.sources import dataset_source, model_source
from robustness_tests.subjects.wide_resnet import WideResNet

NET = ("--model", "wrong_subjects.py:good")
DATA = ("--dataset", "wrong_subjects.py:pair")

MODELS = {
    "probabilities": "look like probabilities, expected logits: return the input of the softmax",
    "fewer_classes": "got labels from 0 to 9 and a model of 5 classes, expected 0 to 4",
    "hidden_dropout": "outputs that differ by up to * between two calls on the same images",
    "mixes_images": "expected a deterministic model whose images do not influence each other",
    "takes_bytes": "about as much as guessing one of 10 classes: with images in 0 to 255 it is *: wrap the net",
    "labels_from_one": "with labels + 1 it is *: number the labels as in training",
    "rounded": "got a gradient of the image that is zero for all of 16 images",
    "without_gradient": "got logits without a gradient of the image, expected a differentiable model: is there a no_",
    "training_mode": "in training mode, expected evaluation mode: call model.eval()",
    "nan_weights": "got NaN or infinity among the weights '*weight', expected finite numbers",
    "nan_logits": "got NaN or infinity among the logits",
    "other_channels": "from the model for images of shape (16, 1, 8, 8) (*is it a model of another dataset",
    "other_architecture": "got RuntimeError 'Error(s) in loading state_dict * from other_architecture() of",
    "untrained": "about as much as guessing one of 10 classes: is the normalisation inside the model",
    "other_mean": "got ValueError 'got 1 means and 2 stds, expected one of each for each channel' from other_mean()",
    "a_tuple": "got a model that returns a tuple (Tensor, Tensor), expected logits: wrap it in a torch.nn.Module",
    "squeezed": "got model output (10,) for one image alone, expected (1, 10): is there a squeeze() in its forward?",
    "no_backward": "got NotImplementedError (",
    "random_weights": "got two different models from two calls of random_weights(), expected the same weights",
    "not_a_network": "got a model of dict, expected a torch.nn.Module",
    "god": "there is no 'god' in it, expected the name of a function or object in it",
}

DATASETS = {
    "one_hot": "got labels of shape (60, 10), expected class numbers (N,): labels.argmax(axis=1)",
    "up_to_255": "got image values from 0 to 255, expected [0, 1]: divide them by 255",
    "normalised": "got image values from -2 to 2, expected [0, 1]: put the normalisation inside the model",
    "channels_last": "got floating-point images of shape (60, 8, 8, 3), expected (N, C, H, W)*transpose(0, 3, 1, 2)",
    "bytes_with_channels_first": "got uint8 images of shape (60, 3, 8, 8), expected (N, H, W, C)*transpose(0, 2, 3, 1)",
    "nan_image": "got NaN or infinity in image 3, expected values in [0, 1]",
    "too_few_labels": "got 60 images and labels of shape (59,), expected one label per image",
    "labels_of_floats": "got labels of float32, expected whole numbers: labels.astype('int64')",
    "no_images": "got 0 images",
    "no_pixels": "got images of shape (3, 1, 0, 0), expected pixels",
    "huge_labels": "expected class numbers from 0",
    "ends_the_process": "got SystemExit '3' from ends_the_process()",
    "only_images": "expected a pair (image, label) of a tensor and a class number",
    "broken_items": "got OSError for item 5 of the dataset (no such picture)",
}


def npz(file, **arrays):
    np.savez(file, **arrays)


def images_npz(file, **changed):
    images, labels = pair()
    npz(file, **{"images": images.numpy(), "labels": labels.numpy(), **changed})


class Malice:
    """Unpickled, it leaves a mark."""

    def __reduce__(self):
        return (os.mkdir, ("mark",))


def truncated(folder):
    images_npz(folder / "whole.npz")
    whole = (folder / "whole.npz").read_bytes()
    (folder / "some.npz").write_bytes(whole[: len(whole) // 2])


def pickled_array(folder):
    images_npz(folder / "some.npz", images=np.array([Malice()] * 60, dtype=object))


def picture(path, size=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((*size, 3), np.uint8)).save(path)


def sixteen_bits(folder):
    picture(folder / "pictures/cat/a.png")
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(folder / "pictures/cat/a.png")


def two_sizes(folder):
    picture(folder / "pictures/cat/a.png")
    picture(folder / "pictures/dog/b.png", size=(9, 8))


def no_picture(folder):
    picture(folder / "pictures/cat/a.png")
    (folder / "pictures/cat/b.png").write_bytes(b"no picture")


def static_program(folder):
    torch.export.save(torch.export.export(good(), (torch.rand(1, 1, 8, 8),)), folder / "net.pt2")


def cifar(folder):
    npz(folder / "cifar.npz", images=np.zeros((20, 32, 32, 3), np.uint8), labels=np.arange(20) % 10)


def checkpoint(folder, content):
    cifar(folder)
    folder_of_models = folder / "data/models/cifar10/corruptions"
    folder_of_models.mkdir(parents=True)
    torch.save(content, folder_of_models / "Hendrycks2020AugMix_WRN.pt")


def other_checkpoint(folder):
    other = WideResNet(depth=16, width=2, classes=10, mean=[0.5] * 3, std=[0.5] * 3)
    checkpoint(folder, {"state_dict": other.state_dict()})


def checkpoint_without_a_layer(folder):
    """As one that RobustBench's own loader lets through, since it also lacks the normalisation."""
    state = WideResNet(depth=40, width=2, classes=10, mean=[0.5] * 3, std=[0.5] * 3).state_dict()
    del state["bn1.weight"]
    checkpoint(folder, {"state_dict": state})


AUGMIX = "robustbench:cifar10/corruptions/Hendrycks2020AugMix_WRN"
OFFLINE = ("--dataset", "npz:cifar.npz", "--data-dir=data", "--model")

ARRAYS = {
    "truncated npz": (truncated, "npz:some.npz", "got a file some.npz that cannot be read as npz"),
    "npz that runs code": (pickled_array, "npz:some.npz", "Object arrays cannot be loaded"),
    "npz of other arrays": (
        lambda folder: npz(folder / "some.npz", x=np.zeros(3), y=np.zeros(3)),
        "npz:some.npz",
        "got arrays 'x', 'y' in some.npz, expected 'images' and 'labels'",
    ),
    "text as npz": (
        lambda folder: (folder / "some.npz").write_text("no arrays"),
        "npz:some.npz",
        "got a file some.npz that cannot be read as npz",
    ),
    "bytes of zero and one": (
        lambda folder: images_npz(folder / "some.npz", images=np.ones((60, 8, 8), np.uint8)),
        "npz:some.npz",
        "got uint8 images of 0 and 1 only, expected 0 to 255",
    ),
    "empty folder": (
        lambda folder: (folder / "pictures").mkdir(),
        "folder:pictures",
        "got a folder pictures without images",
    ),
    "pictures of two sizes": (
        two_sizes,
        "folder:pictures",
        "got images of shapes (3, 8, 8) and (3, 9, 8) (images 0 and 1), expected one shape: --image-size",
    ),
    "pictures of 16 bits": (
        sixteen_bits,
        "folder:pictures",
        "a.png that cannot be read: it has I;16 values, of more",
    ),
    "no picture": (no_picture, "folder:pictures", "b.png that cannot be read"),
}

FILES = {
    "a label after the first images": (
        lambda _: None,
        [*NET, "--dataset", "wrong_subjects.py:late_label"],
        "got labels from 0 to 59 and a model of 10 classes, expected 0 to 9",
    ),
    "labels from one": (
        lambda _: None,
        [*NET, "--dataset", "wrong_subjects.py:labels_from_one_pair"],
        "got labels from 1 to 10 and a model of 10 classes, expected 0 to 9, or number",
    ),
    "truncated npz": (truncated, [*NET, "--dataset", "npz:some.npz"], "got a file some.npz that cannot be read as npz"),
    "npz that runs code": (pickled_array, [*NET, "--dataset", "npz:some.npz"], "Object arrays cannot be loaded"),
    "empty folder": (
        lambda folder: (folder / "pictures").mkdir(),
        [*NET, "--dataset", "folder:pictures"],
        "got a folder pictures without images",
    ),
    "pickle as TorchScript": (
        lambda folder: torch.save(Malice(), folder / "net.pt"),
        [*DATA, "--model", "net.pt"],
        "got a file net.pt that is no TorchScript (*a pickled module is never unpickled",
    ),
    "bare pickle as TorchScript": (
        lambda folder: (folder / "net.pt").write_bytes(pickle.dumps(Malice())),
        [*DATA, "--model", "net.pt"],
        "got a file net.pt that is no TorchScript",
    ),
    "pickle as program": (
        lambda folder: torch.save(Malice(), folder / "net.pt2"),
        [*DATA, "--model", "net.pt2"],
        "got a file net.pt2 that torch.export.load does not read",
    ),
    "program for one image": (static_program, [*DATA, "--model", "net.pt2"], "export with a dynamic batch"),
    "unknown model of RobustBench": (
        cifar,
        [*OFFLINE, "robustbench:cifar10/corruptions/Hendrycks2020AugMix_WRM"],
        "got 'Hendrycks2020AugMix_WRM', expected one of the 17 models that * did you mean 'Hendrycks2020AugMix_WRN'?",
    ),
    "no checkpoint, no network": (
        cifar,
        [*OFFLINE, AUGMIX],
        "got no checkpoint *data/models/cifar10/corruptions/Hendrycks2020AugMix_WRN.pt, and no download (*--data-dir",
    ),
    "checkpoint of another architecture": (
        other_checkpoint,
        [*OFFLINE, AUGMIX],
        "Hendrycks2020AugMix_WRN.pt that does not",
    ),
    "checkpoint without a layer": (checkpoint_without_a_layer, [*OFFLINE, AUGMIX], "1 weights are missing (bn1.weight"),
    "checkpoint that runs code": (
        lambda folder: checkpoint(folder, {"state_dict": Malice()}),
        [*OFFLINE, AUGMIX],
        "Hendrycks2020AugMix_WRN.pt that does not load (Weights only load failed",
    ),
    "no CIFAR-10, no network": (
        lambda _: None,
        [*NET, "--dataset", "cifar10", "--data-dir=data"],
        "got no valid CIFAR-10 file *data/cifar-10-batches-py/test_batch, and no download (*: unpack cifar-10",
    ),
    "no CIFAR-10-C, no network": (
        lambda _: None,
        [*NET, "--dataset", "cifar10-c:fog:3", "--data-dir=data"],
        "got no file *data/CIFAR-10-C/fog.npy, and no download (*: unpack CIFAR-10-C.tar",
    ),
    "no weights of torchvision, no network": (
        lambda _: None,
        [*DATA, "--model", "torchvision:resnet18"],
        "got no weights *resnet18-*.pth of resnet18 (*: put the file there",
    ),
    "unknown model of torchvision": (
        lambda _: None,
        [*DATA, "--model", "torchvision:resnet19"],
        "did you mean 'resnet1",
    ),
    "no weights of timm, no network": (
        lambda _: None,
        [*DATA, "--model", "timm:resnet18"],
        "got no weights of resnet18 in",
    ),
    "unknown model of timm": (
        lambda _: None,
        [*DATA, "--model", "timm:resnet19"],
        "expected a model of timm; did you mean",
    ),
    "no module": (
        lambda _: None,
        [*DATA, "--model", "nowhere.to.be:found"],
        "'nowhere.to.be:found', which cannot be imp",
    ),
    "file that does not run": (
        lambda folder: (folder / "bad.py").write_text("from .sibling import net\n"),
        [*DATA, "--model", "bad.py:net"],
        "which cannot be imported: ImportError 'attempted relative import *: name it as package.module:attribute",
    ),
    "model that ends the process": (
        lambda folder: (folder / "bad.py").write_text("import os\ndef net(): os._exit(3)\n"),
        [*DATA, "--model", "bad.py:net"],
        "got a model that ended the process which loads it (exit status 3)",
    ),
    "reference that is wrong": (
        lambda _: None,
        [*NET, *DATA, "--against", "wrong_subjects.py:a_tuple"],
        "--against: got a model that returns a tuple",
    ),
    "more images than there are": (
        lambda _: None,
        [*NET, *DATA, "--images", "61"],
        "--images: got 61, expected at most 60",
    ),
}


@pytest.fixture
def offline(monkeypatch):
    """Without network and caches."""

    def without(folder):
        # Nothing listens there: a download fails at once, on a machine with network too.
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")
        for name in ("no_proxy", "NO_PROXY", "HF_HUB_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        for name in ("TORCH_HOME", "HF_HOME"):
            monkeypatch.setenv(name, str(folder / "cache"))

    return without


@pytest.fixture
def refused(gate, offline):
    """Run a gate that has to refuse."""
    shutil.copy(wrong_subjects.__file__, gate.folder)
    offline(gate.folder)

    def run(message, *arguments):
        result = gate(*arguments)
        assert result.ret == pytest.ExitCode.USAGE_ERROR, result.stdout.str() + result.stderr.str()
        lines = [line for line in result.stderr.lines if line.strip()]
        assert len(lines) == 1, result.stderr.str()
        result.stderr.fnmatch_lines([f"ERROR: *{message.replace('[', '[[]')}*"])
        assert "Traceback" not in result.stdout.str()
        assert not gate.results_folder.exists(), "nothing is begun"
        assert not (gate.folder / "mark").exists(), "code of a pickle was run"

    return run


REAL_MODELS = ("probabilities", "training_mode", "takes_bytes")
REAL_FILES = (
    "empty folder",
    "checkpoint that runs code",
    "no CIFAR-10, no network",
    "model that ends the process",
    "reference that is wrong",
    "more images than there are",
)
"""Through the whole gate, in processes of their own, which takes seconds; all others only through what it calls."""


@pytest.mark.parametrize("name", REAL_MODELS)
def test_wrong_model_ends_the_gate(refused, name):
    refused(f"--model: *{MODELS[name]}", "-n0", *DATA, "--model", f"wrong_subjects.py:{name}")


@pytest.mark.parametrize("case", REAL_FILES)
def test_wrong_file_ends_the_gate(refused, gate, case):
    make, arguments, message = FILES[case]
    make(gate.folder)
    refused(message, "-n0", *arguments)


def test_wrong_model_is_refused_before_workers_start(refused):
    refused(MODELS["a_tuple"], "-n2", *DATA, "--model", "wrong_subjects.py:a_tuple")


def test_wrong_dataset_is_refused_before_workers_start(refused):
    refused(f"--dataset: {DATASETS['up_to_255']}", "-n2", *NET, "--dataset", "wrong_subjects.py:up_to_255")


@pytest.fixture
def refused_here(tmp_path, offline, monkeypatch):
    """Look at a model and a dataset that have to be refused, in this process."""
    shutil.copy(wrong_subjects.__file__, tmp_path)
    monkeypatch.chdir(tmp_path)
    offline(tmp_path)

    def look_at(option, message, *arguments):
        given = dict(zip(arguments[::2], arguments[1::2], strict=True))
        with pytest.raises(ValueError, match=fnmatch.translate(f"*{message.replace('[', '[[]')}*")) as caught:
            looked_at(given["--model"], given["--dataset"], tmp_path)
        assert "\n" not in " ".join(str(caught.value).split())
        assert getattr(caught.value, "option", option) == option
        assert not (tmp_path / "mark").exists(), "code of a pickle was run"

    return look_at


def looked_at(model, dataset, folder):
    """What the process that looks at models and data does, as the options ask it to."""
    data = dataset_source(dataset, folder)
    sources = {"models": {"model": asdict(model_source(model, data, folder))}, "dataset": asdict(data)}
    subject_check.check_request(
        {
            **sources,
            "images": 5,
            "device": "cpu",
            "data_dir": str(folder / "data"),
            "size": None,
            "sampling": "first",
            "seed": 0,
        }
    )


@pytest.mark.parametrize("name", MODELS)
def test_wrong_model_is_refused(refused_here, name):
    refused_here("model", MODELS[name], *DATA, "--model", f"wrong_subjects.py:{name}")


@pytest.mark.parametrize("name", DATASETS)
def test_wrong_dataset_is_refused(refused_here, name):
    refused_here("dataset", DATASETS[name], *NET, "--dataset", f"wrong_subjects.py:{name}")


@pytest.mark.parametrize("case", ARRAYS)
def test_wrong_array_or_picture_is_refused(refused_here, tmp_path, case):
    make, dataset, message = ARRAYS[case]
    make(tmp_path)
    refused_here("dataset", message, *NET, "--dataset", dataset)


@pytest.mark.parametrize("case", [case for case in FILES if case not in REAL_FILES])
def test_wrong_file_is_refused(refused_here, tmp_path, case):
    make, arguments, message = FILES[case]
    make(tmp_path)
    of_dataset = "CIFAR" in case or "npz" in case
    named = [argument for argument in arguments if argument != "--data-dir=data"]
    refused_here("dataset" if of_dataset else "model", message, *named)
