"""Every form in which people have test images: pictures of all sizes, datasets of libraries, numbered folders."""

import pickle
import struct
import textwrap

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import models, transforms

from meta_tests.subjects.test_forms_of_models import hugging_face
from robustness_tests.subjects import subject_check
from robustness_tests.subjects.datasets import load_dataset
from robustness_tests.subjects.image_folder import left_out
from robustness_tests.subjects.image_size import ImageSize, image_size
from robustness_tests.subjects.images import as_bytes
from robustness_tests.subjects.preprocessing import (
    checked_normalisation,
    normalisation_of,
    of_image_processor,
    preprocessing_of,
)
from robustness_tests.subjects.sources import Source, dataset_source, model_source

SIZES = ((40, 61), (33, 32), (200, 100), (32, 32))
ODD = (*SIZES, (427, 640), (56, 32))
"""Also sizes of which a crop has an odd margin."""


def picture(row, height=40, width=61):
    pixels = np.random.default_rng(row).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def pictures(folder, classes=("cat", "dog", "owl"), each=4):
    """A folder of JPEG files of several sizes, one folder for each class."""
    for name in classes:
        (folder / name).mkdir(parents=True)
        for row in range(each):
            picture(row, *SIZES[row % len(SIZES)]).save(folder / name / f"{row}.jpg", quality=95)
    return folder


def load(text, folder, count=None, size=None):
    return load_dataset(dataset_source(text, folder), folder, count, size)


@pytest.mark.parametrize("name", ["resnet18", "vit_b_16", "efficientnet_b0", "inception_v3"])
def test_pictures_for_torchvision_are_those_of_its_transforms(name, tmp_path):
    """Pixel by pixel, up to the rounding of the normalisation."""
    size = preprocessing_of(Source("torchvision", f"torchvision:{name}", name, name))
    transform = models.get_model_weights(name).DEFAULT.transforms()
    for row, (height, width) in enumerate(ODD):
        mine = as_bytes(picture(row, height, width), size).float() / 255
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (transform.mean, transform.std))
        torch.testing.assert_close((mine - mean) / std, transform(picture(row, height, width)))


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_100", "vit_tiny_patch16_224", "tf_efficientnet_b0"])
def test_pictures_for_timm_are_those_of_its_transforms(name):
    import timm  # noqa: PLC0415  # slow to import

    size = preprocessing_of(Source("timm", f"timm:{name}", name, name))
    card = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    transform = timm.data.create_transform(**card)
    mean, std = (torch.tensor(card[one]).view(3, 1, 1) for one in ("mean", "std"))
    for row, (height, width) in enumerate(ODD):
        mine = as_bytes(picture(row, height, width), size).float() / 255
        torch.testing.assert_close((mine - mean) / std, transform(picture(row, height, width)))


PROCESSORS = {
    "ViT": ("ViTImageProcessor", {"size": {"height": 24, "width": 28}, "resample": 2}),
    "ConvNeXT": ("ConvNextImageProcessor", {"size": {"shortest_edge": 28}, "resample": 3}),
    "ConvNeXT, large": ("ConvNextImageProcessor", {"size": {"shortest_edge": 384}, "resample": 3}),
    "CLIP": (
        "CLIPImageProcessor",
        {"size": {"shortest_edge": 30}, "crop_size": {"height": 24, "width": 24}, "do_convert_rgb": True},
    ),
    "no rescaling": ("ViTImageProcessor", {"size": {"height": 24, "width": 24}, "do_rescale": False}),
    "no normalisation": ("ViTImageProcessor", {"size": {"height": 24, "width": 24}, "do_normalize": False}),
}


@pytest.mark.parametrize("case", PROCESSORS)
def test_pictures_for_hugging_face_are_those_of_its_processor(case):
    """Up to two steps of a byte, and one in all but a few: torch and Pillow resize with different rounding."""
    transformers = pytest.importorskip("transformers")
    name, given = PROCESSORS[case]
    processor = getattr(transformers, name)(**given)
    card = processor.to_dict()
    size, (mean, std) = of_image_processor(card), normalisation_of(card)
    for row, (height, width) in enumerate(ODD):
        mine = as_bytes(picture(row, height, width), size).float() / 255
        mean_of, std_of = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))
        theirs = processor(picture(row, height, width), return_tensors="pt").pixel_values[0]
        steps = ((mine - mean_of) / std_of - theirs.float()).abs() * 255 * float(min(std))
        assert float(steps.max()) < 2.01
        assert float((steps > 1.01).float().mean()) < 1e-4


def test_a_processor_that_does_more_is_refused(tmp_path):
    """EfficientNet's divides by the standard deviation twice."""
    transformers = pytest.importorskip("transformers")
    source = Source("hf", "hf:saved", "saved", str(tmp_path))
    transformers.EfficientNetImageProcessor(size={"height": 30, "width": 30}).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"an image processor of .* that does more than to resize, crop"):
        preprocessing_of(source)
    transformers.ViTImageProcessor(size={"height": 30, "width": 30}).save_pretrained(tmp_path)
    assert preprocessing_of(source) == ImageSize((30, 30), rounded=False)


@pytest.mark.parametrize(
    "card",
    [{"do_pad": True}, {"size": {"longest_edge": 20}}, {"size": {"height": 8, "width": 8}, "resample": 17}],
    ids=["padding", "longest edge", "interpolation"],
)
def test_other_steps_of_a_processor_are_refused(card):
    with pytest.raises(ValueError, match="state the size by hand, for example --image-size=256/224"):
        of_image_processor(card)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("32", ImageSize((32,), (32, 32))),
        ("36/32", ImageSize((36,), (32, 32))),
        ("30x20", ImageSize((30, 20))),
    ],
)
def test_size_by_hand(tmp_path, text, expected):
    found = load("folder:jpegs", pictures(tmp_path / "jpegs").parent, None, image_size(text))
    assert image_size(text) == expected
    shape = found.images[:].shape
    assert shape == (12, 3, *(expected.crop or expected.resize))
    resize = expected.resize if len(expected.resize) == 2 else expected.resize[0]
    theirs = transforms.Compose([transforms.Resize(resize), transforms.CenterCrop(shape[2:])])
    with Image.open(tmp_path / "jpegs/cat/2.jpg") as file:
        same = transforms.functional.pil_to_tensor(theirs(file.convert("RGB")))
    assert found.images[6].mul(255).round().to(torch.uint8).equal(same), "the third of the first class"


@pytest.mark.parametrize("text", ["", "0", "224/256", "x224", "224/", "-1", "224x", "1.5", "999999"])
def test_wrong_size(text):
    with pytest.raises(ValueError, match=r"got .*, expected .*224, 256/224 or 224x224"):
        image_size(text)


def test_pictures_of_several_sizes_need_one(tmp_path):
    found = load("folder:jpegs", pictures(tmp_path / "jpegs").parent)
    with pytest.raises(ValueError, match=r"got images of shapes .* expected one shape: --image-size=224"):
        found.images[:]


def test_memory_does_not_grow_with_the_images(tmp_path):
    """Pictures are read when they are asked for, and few of them stay."""
    found = load("folder:jpegs", pictures(tmp_path / "jpegs", each=100).parent, None, image_size("16"))
    load_one = found.images._load.__wrapped__  # noqa: SLF001
    assert found.images._load.cache_info().currsize == 0, "nothing is read before it is asked for"  # noqa: SLF001
    assert sum(len(batch) for batch in found.images.split(20)) == 300
    assert found.images._load.cache_info().currsize == 128  # noqa: SLF001
    assert load_one(7).dtype == torch.uint8


CLASSES = [str(number) for number in range(12)]


def test_folders_that_are_numbers_are_the_numbers(tmp_path):
    """By sorted names they would be 0, 1, 10, 11, 2, ..."""
    found = load("folder:jpegs", pictures(tmp_path / "jpegs", CLASSES, each=1).parent)
    assert found.labels.tolist() == list(range(12))
    assert found.class_names == tuple(CLASSES)
    padded = load("folder:padded", pictures(tmp_path / "padded", ["00002", "00010"], each=1).parent)
    assert padded.labels.tolist() == [2, 10]
    assert (padded.largest_label, padded.class_names[2], padded.class_names[3]) == (10, "00002", "")


def test_classes_by_a_file(tmp_path):
    folder = pictures(tmp_path / "jpegs", each=1)
    (folder / "classes.txt").write_text("owl\ncat\nnewt\ndog\n")
    found = load("folder:jpegs", tmp_path)
    assert dict(zip(found.labels.tolist(), ("owl", "cat", "dog"), strict=True)) == {0: "owl", 1: "cat", 3: "dog"}
    (folder / "classes.txt").write_text("owl\ncat\n")
    with pytest.raises(ValueError, match=r"got a folder 'dog' that is not in .*classes\.txt"):
        load("folder:jpegs", tmp_path)


def write_idx(path, values):
    """An array in the format of MNIST's files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    path.write_bytes(header + values.astype(np.uint8).tobytes())


def test_torchvision_dataset_in_its_own_files(tmp_path):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (20, 28, 28)), np.arange(20) % 10
    for split in ("t10k", "train"):
        write_idx(tmp_path / f"FashionMNIST/raw/{split}-images-idx3-ubyte", images)
        write_idx(tmp_path / f"FashionMNIST/raw/{split}-labels-idx1-ubyte", labels)
    found = load("torchvision:FashionMNIST", tmp_path, 12)
    assert (found.total, len(found.labels), found.class_names[9]) == (20, 12, "Ankle boot")
    torch.testing.assert_close(found.images[:], torch.from_numpy(images[:12, None] / 255).float())
    assert found.labels.tolist() == labels[:12].tolist()
    assert load("torchvision:FashionMNIST", tmp_path, 2, image_size("14")).images[:].shape == (2, 1, 14, 14)


def test_cifar100_in_its_own_files(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR100  # noqa: PLC0415

    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (6, 3072), dtype=np.uint8), [5, 99, 0, 7, 8, 9]
    folder = tmp_path / CIFAR100.base_folder
    folder.mkdir()
    (folder / "test").write_bytes(pickle.dumps({"data": pixels, "fine_labels": labels}))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": [f"class {one}" for one in range(100)]}))
    monkeypatch.setattr(CIFAR100, "_check_integrity", lambda _: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    found = load("torchvision:CIFAR100", tmp_path)
    torch.testing.assert_close(found.images[:], torch.from_numpy(pixels).view(6, 3, 32, 32) / 255)
    assert (found.labels.tolist(), found.class_names[99]) == (labels, "class 99")
    assert load("cifar100", tmp_path).labels.tolist() == labels


def test_unknown_dataset_and_missing_files(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"got 'torchvision:FashionMINST', .*did you mean 'FashionMNIST'"):
        load("torchvision:FashionMINST", tmp_path)

    def no_network(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", no_network)
    with pytest.raises(ValueError, match=r"got no files of SVHN in .*, and no download \(.*\): put them there"):
        load("torchvision:SVHN", tmp_path)


def hugging_face_data():
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "picture": datasets.Image(),
            "kind": datasets.ClassLabel(names=["cat", "dog"]),
            "note": datasets.Value("string"),
        }
    )
    rows = {"picture": [picture(row, 12, 10) for row in range(5)], "kind": [0, 1, 1, 0, 1], "note": ["x"] * 5}
    return datasets, datasets.Dataset.from_dict(rows, features=features)


def test_hugging_face_dataset_on_disk(tmp_path):
    datasets, one = hugging_face_data()
    datasets.DatasetDict({"test": one}).save_to_disk(tmp_path / "saved")
    for text in ("hf:saved:test", "hf:saved:test:picture:kind"):
        found = load(text, tmp_path, 3)
        assert (found.total, found.class_names) == (5, ("cat", "dog"))
        assert found.labels.tolist() == [0, 1, 1]
        assert found.images[1].mul(255).round().to(torch.uint8).equal(as_bytes(picture(1, 12, 10), None))
    with pytest.raises(ValueError, match="got no split 'train' of"):
        load("hf:saved:train", tmp_path)
    one._split = datasets.Split.TRAIN  # noqa: SLF001  # as load_dataset(..., split="train") leaves it
    one.save_to_disk(tmp_path / "alone")
    assert load("hf:alone:train", tmp_path).total == 5
    with pytest.raises(ValueError, match=r"got no split 'test' of .* \(the folder is the split 'train'\)"):
        load("hf:alone:test", tmp_path)
    with pytest.raises(ValueError, match=r"got column 'picutre', .*did you mean 'picture'"):
        load("hf:saved:test:picutre:kind", tmp_path)
    datasets.DatasetDict(
        {"test": one.rename_column("kind", "x").cast_column("x", datasets.Value("int64"))}
    ).save_to_disk(tmp_path / "plain")
    with pytest.raises(ValueError, match=r"got columns picture \(Image\), x \(Value\), .* hf:NAME:SPLIT:IMAGES:LABELS"):
        load("hf:plain:test", tmp_path)
    assert load("hf:plain:test:picture:x", tmp_path).labels.tolist() == [0, 1, 1, 0, 1]


@pytest.mark.parametrize("text", ["hf:saved", "hf::test", "hf:a:test:picture", "hf:a:"])
def test_wrong_name_of_a_hugging_face_dataset(text, tmp_path):
    with pytest.raises(ValueError, match="expected hf:NAME:SPLIT, or hf:NAME:SPLIT:IMAGES:LABELS with the columns"):
        load(text, tmp_path)


RANDOM = """
    import os, random
    import numpy, torch
    from PIL import Image

    class Flipped(torch.utils.data.Dataset):
        def __len__(self):
            return 40

        def __getitem__(self, row):
            generator = torch.Generator().manual_seed(row)
            image = 0.1 + 0.15 * torch.rand(1, 16, 16, generator=generator) + 0.3 * (row % 3)
            return self.changed(image, row), row % 3

        def changed(self, image, row):
            return image

    class Rarely(Flipped):
        def changed(self, image, row):
            return image + 0.01 * random.random() * (row == 37)

    class ByProcess(Flipped):
        def changed(self, image, row):
            return image + 1e-4 * (os.getpid() % 100) * (row == 5)

    class Halves(Flipped):
        def __getitem__(self, row):
            image, label = super().__getitem__(row)
            return image, label + 0.5

    class Mixed(Flipped):
        mode = "RGB"
        def __getitem__(self, row):
            image, label = super().__getitem__(row)
            picture = Image.fromarray((image[0] * 255).byte().numpy())
            return picture.convert(self.mode) if row == 20 else picture, label

    class Dark(Mixed):
        def __getitem__(self, row):
            image, label = Flipped.__getitem__(self, row)
            return Image.new("L", (16, 16), 1) if row == 3 else Image.fromarray((image[0] * 255).byte().numpy()), label

    class Endless(Flipped):
        def __len__(self):
            return 10**13
"""


@pytest.fixture
def mine(tmp_path):
    (tmp_path / "mine.py").write_text(textwrap.dedent(RANDOM))
    (tmp_path / "net.py").write_text(textwrap.dedent(CUT))
    return tmp_path


def test_dataset_with_a_random_transform_is_refused(mine):
    """Even if one of its images is random only."""
    with pytest.raises(ValueError, match=r"got two different datasets when 'mine\.py:Rarely'") as caught:
        looked_at("net.py:net", "mine.py:Rarely", mine)
    assert caught.value.option == "dataset"
    assert looked_at("net.py:net", "mine.py:Flipped", mine).image_size is None


def test_another_image_than_the_one_that_was_looked_at(gate):
    """An image that depends on the process: the message is about the dataset, not about the model."""
    (gate.folder / "mine.py").write_text(textwrap.dedent(RANDOM))
    (gate.folder / "net.py").write_text(textwrap.dedent(CUT))
    few = ("--quick", "--images=8", "--batch-size=4", "--norms=linf", "--certify=off")
    result = gate("-n0", "--model=net.py:net", "--dataset=mine.py:ByProcess", *few)
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        ["*got another image 5 from 'mine.py:ByProcess' than the one that was looked at before*"]
    )


def test_labels_that_are_no_whole_numbers(mine):
    with pytest.raises(ValueError, match=r"got ValueError for item 0 of the dataset \(the label 0.5\)"):
        load("mine.py:Halves", mine, 4)


def test_grey_and_coloured_pictures(mine):
    """Grey ones stay grey, one that is dark is no mistake, and one with colours among grey ones is."""
    assert load("mine.py:Dark", mine, 10).images[:].shape == (10, 1, 16, 16)
    assert load("mine.py:Mixed", mine, 10).images[:].shape == (10, 1, 16, 16)
    with pytest.raises(ValueError, match=r"it has colours \(RGB\), and the first 16 are grey: convert all to RGB"):
        load("mine.py:Mixed", mine)
    assert load("mine.py:Endless", mine, 3).total == 10**13


def test_other_files_and_unusual_pictures_of_a_folder(tmp_path):
    folder = pictures(tmp_path / "jpegs", each=2)
    picture(0, 33, 32).save(folder / "cat/7.gif")
    picture(1, 33, 32).convert("L").save(folder / "dog/8.jfif", format="JPEG")
    (folder / "owl/notes.txt").write_text("no picture")
    (folder / "owl/.DS_Store").write_bytes(b"")
    found = load("folder:jpegs", tmp_path, None, image_size("16"))
    assert (found.total, found.images[:].shape) == (8, (8, 3, 16, 16))
    assert left_out(folder) == ("1 files that are no pictures are left out: .txt",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"cat\ncat\ndog\nowl", "got 'cat' twice in .*classes.txt, expected the name of each class once"),
        (b"cat\n\ndog\nowl", "got an empty line 2 in .*classes.txt"),
        ("caf\u00e9\ncat".encode("latin-1"), "got a file .*classes.txt that cannot be read as UTF-8"),
        (b"\xef\xbb\xbfowl\r\ncat\r\ndog\r\n\r\n", ""),
    ],
    ids=["twice", "empty line", "latin-1", "BOM and CRLF"],
)
def test_lists_of_classes(tmp_path, content, message):
    folder = pictures(tmp_path / "jpegs", each=1)
    (folder / "classes.txt").write_bytes(content)
    if message:
        with pytest.raises(ValueError, match=message):
            load("folder:jpegs", tmp_path)
    else:
        assert load("folder:jpegs", tmp_path).class_names == ("owl", "cat", "dog")


def test_a_bad_picture_is_told_as_the_dataset(tmp_path):
    (tmp_path / "net.py").write_text(textwrap.dedent(CUT))
    levels(tmp_path / "jpegs")
    (tmp_path / "jpegs/1/00.jpg").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"got an image .*00\.jpg that cannot be read") as caught:
        looked_at("net.py:net", "folder:jpegs", tmp_path, "16")
    assert caught.value.option == "dataset"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("preprocessor_config.json", "{", "that is no JSON"),
        ("preprocessor_config.json", "[]", "without an object"),
        ("preprocessor_config.json", '{"size": 8, "image_mean": 0, "image_std": 1}', "that transformers does not load"),
        ("preprocessor_config.json", '{"image_processor_type": "Foo", "size": 8}', "got image_mean None"),
    ],
)
def test_damaged_processors(tmp_path, file, content, message):
    pytest.importorskip("transformers")
    (tmp_path / file).write_text(content)
    with pytest.raises(ValueError, match=message):
        preprocessing_of(Source("hf", "hf:saved", "saved", str(tmp_path)))


def looked_at(model, dataset, folder, size=None, sampling="first"):
    data = dataset_source(dataset, folder)
    source = {"model": subject_check.asdict(model_source(model, data, folder))}
    request = {"models": source, "dataset": subject_check.asdict(data), "images": 5, "device": "cpu"}
    given = None if size is None else subject_check.asdict(image_size(size))
    sample = {"sampling": sampling, "seed": 0}
    return subject_check.check_request({**request, **sample, "data_dir": str(folder), "size": given})


CUT = """
    import torch
    from robustness_tests import Classifier

    class Bright(torch.nn.Module):
        def forward(self, images):
            level = images.mean(dim=(1, 2, 3))
            return 50 * torch.stack([0.3 - level, level * 0, level - 0.7], dim=1)

    net = Bright().eval()
"""


def levels(folder, names=("0", "1", "2")):
    """Dark, grey and bright pictures of several sizes."""
    for name, level in zip(names, (20, 128, 235), strict=True):
        (folder / name).mkdir(parents=True)
        for row, (height, width) in enumerate(SIZES * 3):
            pixels = np.random.default_rng(row).integers(level - 20, level + 20, (height, width, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{row:02d}.jpg")


def test_size_is_part_of_what_is_known_of_a_run(tmp_path):
    (tmp_path / "net.py").write_text(textwrap.dedent(CUT))
    levels(tmp_path / "jpegs")
    seen = looked_at("net.py:net", "folder:jpegs", tmp_path, "16")
    assert seen.image_size == image_size("16")
    assert seen.values == 3 * 16 * 16
    assert subject_check.CheckedSubjects.from_json(seen.to_json()) == seen
    other = looked_at("net.py:net", "folder:jpegs", tmp_path, "20/16")
    assert other.image_digests != seen.image_digests
    with pytest.raises(ValueError, match="expected one shape: --image-size=224") as caught:
        looked_at("net.py:net", "folder:jpegs", tmp_path)
    assert caught.value.option == "dataset"


def test_arrays_are_not_resized(tmp_path):
    (tmp_path / "net.py").write_text(textwrap.dedent(CUT))
    np.savez(tmp_path / "some.npz", images=np.full((6, 8, 8, 3), 128, np.uint8), labels=np.ones(6, np.int64))
    with pytest.raises(
        ValueError, match=r"images of 8x8 pixels that are no pictures, .*: arrays and tensors are not res"
    ):
        looked_at("net.py:net", "npz:some.npz", tmp_path, "16")


@pytest.mark.parametrize(
    ("names", "trained_on"),
    [
        ([f"img{number}" for number in range(12)], "the numbers in the names"),
        ([str(number) for number in range(12)], "the sorted names"),
    ],
)
def test_classes_in_another_order_are_noticed(tmp_path, names, trained_on):
    """Ten of twelve classes get a wrong number, and the accuracy is still better than chance."""
    order = sorted(names) if trained_on == "the sorted names" else names
    (tmp_path / "net.py").write_text(textwrap.dedent(TWELVE))
    for number, name in enumerate(order):
        (tmp_path / "jpegs" / name).mkdir(parents=True)
        for row in range(2):
            Image.new("L", (8, 8), 20 * number + 5 + row).save(tmp_path / f"jpegs/{name}/{row}.png")
    with pytest.raises(
        ValueError, match=rf"got clean accuracy \d+% on 24 images, and 100% if .* {trained_on}"
    ) as caught:
        looked_at("net.py:net", "folder:jpegs", tmp_path)
    assert caught.value.option == "dataset"
    (tmp_path / "jpegs/classes.txt").write_text("\n".join(order))
    looked_at("net.py:net", "folder:jpegs", tmp_path)


TWELVE = """
    import torch

    class Level(torch.nn.Module):
        def forward(self, images):
            levels = (torch.arange(12) * 20 + 5) / 255
            return -300 * (images.mean(dim=(1, 2, 3))[:, None] - levels).square()

    net = Level().eval()
"""


def test_through_the_gate(gate):
    """Pictures of several sizes, resized, on two workers."""
    (gate.folder / "net.py").write_text(textwrap.dedent(CUT))
    levels(gate.folder / "jpegs")
    arguments = ("--model=net.py:net", "--dataset=folder:jpegs", "--image-size=16", "--quick", "--images=6")
    result = gate("-n2", *arguments, "--norms=linf", "--certify=off")
    assert result.ret == 0, result.stdout.str()
    result.stdout.fnmatch_lines(["robustness: pictures are resized: shorter side 16 (bilinear), the central 16x16"])
    assert gate.results()["run"]["image_size"] == "shorter side 16 (bilinear), the central 16x16"


def test_arrays_for_a_model_that_states_a_size(tmp_path):
    """They are not resized, and nothing says that they were."""
    model, _ = hugging_face(tmp_path / "saved")
    images = torch.rand(20, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in ([0.4, 0.5, 0.6], [0.2, 0.3, 0.4]))
    with torch.no_grad():
        labels = model((images - mean) / std).logits.argmax(dim=1)
    np.savez(tmp_path / "some.npz", images=images.numpy(), labels=labels.numpy())
    seen = looked_at("hf:saved", "npz:some.npz", tmp_path)
    assert seen.image_size is None
    assert "a model states the size 16x16 (bicubic); the images are arrays of 20x20, and not resized" in seen.remarks


def test_class_to_idx_of_a_model(tmp_path):
    """What a training script has saved with the weights."""
    names = ["dark", "grey", "bright"]
    levels(tmp_path / "jpegs", names)
    (tmp_path / "jpegs/classes.txt").write_text("\n".join(names))
    code = textwrap.dedent(CUT) + "\nnet.class_to_idx = {'dark': 0, 'grey': 1, 'bright': 2, 'other': 7}\n"
    (tmp_path / "net.py").write_text(code)
    looked_at("net.py:net", "folder:jpegs", tmp_path, "16")
    (tmp_path / "other.py").write_text(code.replace("'grey': 1, 'bright': 2", "'grey': 2, 'bright': 1"))
    with pytest.raises(
        ValueError, match="got class 'grey' with number 1, and 2 in class_to_idx of the model"
    ) as caught:
        looked_at("other.py:net", "folder:jpegs", tmp_path, "16")
    assert caught.value.option == "dataset"


def test_images_of_one_class_give_no_hint(tmp_path):
    """Whatever confuses a model into this class would seem to help."""
    (tmp_path / "net.py").write_text(textwrap.dedent(CUT))
    np.savez(tmp_path / "some.npz", images=np.full((20, 8, 8, 3), 128, np.uint8), labels=np.full(20, 2))
    with pytest.raises(ValueError, match="is the normalisation inside the model"):
        looked_at("net.py:net", "npz:some.npz", tmp_path)


def test_models_for_several_sizes_are_told(tmp_path):
    """Whichever options name them; two that only cut the offset of the crop otherwise differ in words, too."""
    transformers = pytest.importorskip("transformers")
    for name, side in (("a", 16), ("b", 20)):
        transformers.ViTImageProcessor(size={"height": side, "width": side}).save_pretrained(tmp_path / name)
    sources = {
        one: Source("hf", f"hf:{name}", name, str(tmp_path / name)) for one, name in (("model", "a"), ("deployed", "b"))
    }
    with pytest.raises(ValueError, match=r"--model for 16x16 .*, and --deployed for 20x20 .*: state it with") as caught:
        subject_check._size_of_models(sources)  # noqa: SLF001
    assert caught.value.option == "deployed"
    assert str(ImageSize((20,), (16, 16))) != str(ImageSize((20,), (16, 16), rounded=False))


def test_normalisation_is_checked_when_the_size_is_stated_by_hand(tmp_path):
    """EfficientNet's processor divides by the standard deviation twice, whatever the size."""
    transformers = pytest.importorskip("transformers")
    transformers.EfficientNetImageProcessor(size={"height": 30, "width": 30}).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="does more than to rescale and normalise"):
        checked_normalisation(str(tmp_path))
    transformers.CLIPImageProcessor().save_pretrained(tmp_path)
    assert checked_normalisation(str(tmp_path))[0] == pytest.approx([0.4815, 0.4578, 0.4082], abs=1e-4)


@pytest.mark.parametrize("text", ["hf:~nobody-of-this-name/x", f"hf:{'x' * 300}", "hf:a\0b"])
def test_names_that_are_no_path(tmp_path, text):
    for name, read in ((text, model_source), (f"{text}:test", None)):
        with pytest.raises(ValueError, match="got 'hf:"):
            read(name, dataset_source("digits", tmp_path), tmp_path) if read else dataset_source(name, tmp_path)
