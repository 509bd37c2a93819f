"""Models and data of other libraries through the whole gate, on files that the test makes."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from meta_tests.subjects.test_forms_of_data import write_idx
from meta_tests.subjects.test_forms_of_models import hugging_face

FEW = ("--quick", "--images=4", "--batch-size=4", "--norms=linf", "--certify=off")


def blobs(count, side, channels):
    """Smooth random pictures, so that a network with random weights has several opinions."""
    rng = np.random.default_rng(0)
    shape = (5, 5) if channels == 1 else (5, 5, 3)
    rough = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
    return [Image.fromarray(one).resize((side, side), Image.Resampling.BICUBIC) for one in rough]


def test_hugging_face_model_on_hugging_face_data(gate):
    """The labels are what the model says by itself, of pictures that its own processor has prepared."""
    datasets = pytest.importorskip("datasets")
    model, processor = hugging_face(gate.folder / "saved")
    pictures = blobs(20, 40, 3)
    with torch.no_grad():
        labels = model(**processor(pictures, return_tensors="pt")).logits.argmax(dim=1).tolist()
    assert len(set(labels)) > 1
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c"])})
    data = datasets.Dataset.from_dict({"image": pictures, "label": labels}, features=features)
    datasets.DatasetDict({"test": data}).save_to_disk(gate.folder / "data")
    result = gate("-n2", "--model=hf:saved", "--dataset=hf:data:test", *FEW)
    result.stdout.fnmatch_lines(
        [
            "robustness: hf.saved (hf:saved) on hf.data.test (hf:data:test), 4 images, linf, quick: not for a release*",
            "robustness: pictures are resized: 16x16 (bicubic)",
            "robustness: hf.saved: the logits are those in the * that the model returns",
            "robustness: classes: 0 a, 1 b, 2 c",
        ]
    )
    values = gate.values("test_clean_accuracy")
    # Torch and Pillow may round a pixel otherwise.
    assert values["value"] >= 0.9
    assert (result.ret, gate.results()["verdict"]) == (0, "partial"), result.stdout.str()


def test_onnx_model_on_a_dataset_of_torchvision(gate):
    pytest.importorskip("onnx2pytorch")
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 4, 5, stride=3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10), nn.Linear(10, 10)
    ).eval()
    pictures = np.stack([np.asarray(one) for one in blobs(20, 28, 1)])
    images = torch.from_numpy(pictures)[:, None].float() / 255
    with torch.no_grad():
        logits = network(images)
        # Centred, so that the predictions are of several classes.
        network[4].bias -= logits.mean(dim=0)
        labels = network(images).argmax(dim=1).numpy()
    assert len(set(labels)) > 2
    batch = torch.export.Dim("batch")
    torch.onnx.export(
        network,
        (images[:2],),
        gate.folder / "net.onnx",
        dynamic_shapes=({0: batch},),
        external_data=False,
        verbose=False,
    )
    for split in ("t10k", "train"):
        write_idx(gate.folder / f"data/FashionMNIST/raw/{split}-images-idx3-ubyte", pictures)
        write_idx(gate.folder / f"data/FashionMNIST/raw/{split}-labels-idx1-ubyte", labels)
    result = gate("-n0", "--model=net.onnx", "--dataset=torchvision:FashionMNIST", "--data-dir=data", *FEW)
    assert gate.values("test_clean_accuracy")["value"] == 1
    assert (result.ret, gate.results()["verdict"]) == (0, "partial"), result.stdout.str()
