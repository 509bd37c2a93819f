"""Common corruptions: of files, and of any images; each from its own seed."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from robustness_tests import test_corruptions
from robustness_tests.harness.fixtures.common_corruptions import CommonCorruptions, of_files
from robustness_tests.harness.thresholds import load_thresholds
from robustness_tests.subjects.common_corruptions import (
    OWN_GENERATOR,
    SEVERITIES,
    corrupted,
    every_corruption,
    why_not,
)
from robustness_tests.subjects.datasets import common_corruptions
from robustness_tests.subjects.sampling import order_of
from robustness_tests.subjects.sources import CORRUPTIONS, dataset_source

WITHOUT_CHANCE = ("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression")


@pytest.fixture
def two_corruptions(tmp_path):
    """A CIFAR-10-C of white fog and black snow, every other image of class 1."""
    folder_of_data = tmp_path / "CIFAR-10-C"
    folder_of_data.mkdir()
    for name, value in (("fog", 255), ("snow", 0)):
        np.save(folder_of_data / f"{name}.npy", np.full((50_000, 2, 2, 3), value, np.uint8))
    np.save(folder_of_data / "labels.npy", np.tile(np.arange(2, dtype=np.uint8), 25_000))
    return tmp_path


def test_published_corruptions_are_measured_where_they_are(two_corruptions, tmp_path):
    """A network that says 1 where an image is bright: right for half of the images in fog, and for half in snow."""
    run = SimpleNamespace(dataset_source=dataset_source("cifar10", tmp_path), data_dir=two_corruptions, images=11)
    run.sampling, run.seed = "first", 0
    model = SimpleNamespace(logits=brightness)
    assert of_files(run, model) == {"fog": [0.0, 1.0] * 5 + [0.0], "snow": [1.0, 0.0] * 5 + [1.0]}
    run.sampling = "random"
    order = order_of(np.arange(10_000) % 2, "random", 0)[:11]
    assert of_files(run, model)["fog"] == [float(row % 2) for row in order], "the images of the sample"
    run.dataset_source = dataset_source("digits", tmp_path)
    assert of_files(run, model) == {}
    assert len(list(common_corruptions(two_corruptions, 3))) == 10
    assert not list(common_corruptions(tmp_path / "nowhere", 3))


def brightness(images):
    bright = images.flatten(1).mean(dim=1) - 0.5
    return torch.stack([-bright, bright], dim=1)


SHARES = {"fog": [0.2, 0.6], "snow": [0.6, 0.6]}


@pytest.mark.parametrize(
    ("least", "worst", "each", "outcome"),
    [
        (None, None, {}, "not judged"),
        (0.5, None, {}, ""),
        (None, 0.4, {}, ""),
        (None, None, {"snow": 0.6, "fog": 0.4}, ""),
        (None, None, {"snow": 0.61}, r"ours classifies 60.0% of images correctly under snow, expected 61.0%"),
        (0.51, None, {}, r"ours classifies 50.0% of .* \(40.0% under fog\), expected 51.0%"),
        (0.5, 0.41, {}, r"ours classifies 40.0% of images correctly under fog, the worst corruption, expected 41.0%"),
    ],
)
def test_property_of_common_corruptions(least, worst, each, outcome):
    models, values = [SimpleNamespace(name=name) for name in ("ours", "theirs")], {}
    thresholds = SimpleNamespace(common_corruptions=least, worst_corruption=worst, corruptions=each, confidence=0.95)

    def measured(*given, estimate=None, **named):
        values.update(*given, **named, **({"value": estimate.value} if estimate else {}))

    arguments = (
        *models,
        lambda _: CommonCorruptions(SHARES, 150, stored=False),
        [70, 20],
        thresholds,
        measured,
    )
    if outcome:
        with pytest.raises((pytest.skip.Exception, AssertionError), match=outcome):
            test_corruptions.test_common_corruptions(*arguments)
    else:
        test_corruptions.test_common_corruptions(*arguments)
    assert values["value"] == pytest.approx(0.5)
    assert values["corruptions"] == pytest.approx({"fog": 0.4, "snow": 0.6})
    assert values["worst"] == [70, 20], "dataset indices, the worst first"


@pytest.mark.parametrize(("gain", "outcome"), [(0.3, ""), (0.0, "expected more than"), (-0.1, "expected more than")])
def test_property_of_the_comparison(gain, outcome):
    ours, theirs = [SimpleNamespace(name=name) for name in ("ours", "theirs")]
    of_model = {"ours": [0.4 + gain] * 12, "theirs": [0.4] * 12}
    thresholds = SimpleNamespace(largest_p_value=0.05, confidence=0.95)
    arguments = (
        lambda model: CommonCorruptions({"fog": of_model[model.name]}, 60, stored=False),
        range(12),
        thresholds,
        lambda *_, **__: None,
    )
    if outcome:
        with pytest.raises(AssertionError, match=outcome):
            test_corruptions.test_candidate_beats_reference_under_common_corruptions(ours, theirs, *arguments)
    else:
        test_corruptions.test_candidate_beats_reference_under_common_corruptions(ours, theirs, *arguments)
    with pytest.raises(pytest.skip.Exception, match="nothing to compare"):
        test_corruptions.test_candidate_beats_reference_under_common_corruptions(ours, ours, *arguments)


@pytest.fixture
def image(cifar10):
    pytest.importorskip("imagecorruptions")
    return cifar10.images[3]


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_depends_on_its_seed_alone(name, image):
    """Not on numpy's global state, which stays as it was; nor on what was drawn before."""
    np.random.seed(5)  # noqa: NPY002  # the state that must not matter
    expected = np.random.RandomState(5).rand()
    first = corrupted(image, name, 3, 17)
    assert np.random.rand() == expected  # noqa: NPY002
    assert corrupted(image, name, 3, 17).equal(first)
    assert corrupted(image, name, 3, 18).equal(first) == (name in WITHOUT_CHANCE)
    assert first.shape == image.shape
    assert first.dtype == torch.float32
    assert 0 <= float(first.min()) <= float(first.max()) <= 1


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_is_that_of_the_package(name, image):
    """Bit by bit, for the same state of its generators; and stronger with the severity."""
    package = pytest.importorskip("imagecorruptions")
    picture = image.mul(255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    far = []
    for severity in SEVERITIES:
        mine = corrupted(image, name, severity, 17).mul(255).round().to(torch.uint8)
        state = int(np.random.SeedSequence([17, CORRUPTIONS.index(name), severity]).generate_state(1)[0])
        np.random.seed(state)  # noqa: NPY002  # the package's choice
        own = {"seed": state} if name in OWN_GENERATOR else {}
        theirs = package.corrupt(picture, corruption_name=name, severity=severity, **own)
        assert mine.permute(1, 2, 0).equal(torch.from_numpy(theirs.copy()))
        far.append(float((mine.float() / 255 - image).abs().mean()))
    assert far[4] > far[0] > 0


def test_severities_and_corruptions_have_streams_of_their_own(image):
    every = every_corruption(image, 17)
    assert every.shape == (75, *image.shape)
    assert every[5 * CORRUPTIONS.index("fog") + 2].equal(corrupted(image, "fog", 3, 17))
    noise = every[:5] - image
    assert abs(float(torch.corrcoef(noise[3:5].flatten(1))[0, 1])) < 0.2, "not the same draws at two strengths"


def test_grey_images_stay_grey(image):
    grey = image.mean(dim=0, keepdim=True)
    assert corrupted(grey, "snow", 3, 0).shape == grey.shape


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ((3, 32, 32), ""),
        ((1, 40, 33), ""),
        ((3, 31, 64), "31x64 pixels, and corruptions are for 32x32"),
        ((2, 64, 64), "2 ch"),
    ],
)
def test_what_can_be_corrupted(shape, reason):
    pytest.importorskip("imagecorruptions")
    assert reason in why_not(torch.Size(shape))
    assert bool(why_not(torch.Size(shape))) == bool(reason)


def test_without_the_package_nothing_is_corrupted(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert "pip install 'robustness-gate[corruptions]'" in why_not(torch.Size((3, 32, 32)))


def test_through_the_gate(gate):
    """Twice the same numbers, with and without workers; the second time from the store. Digits are too small."""
    pytest.importorskip("imagecorruptions")
    arguments = ("--quick", "--images=4", "--batch-size=2", "-k", "corruptions", "--norms=linf")
    found = []
    for workers in ("-n0", "-n2"):
        result = gate(workers, *arguments, "--dataset=cifar10-sample", "--fresh")
        assert result.ret in (0, 1), result.stdout.str()
        found.append(gate.values("test_common_corruptions"))
    assert found[0]["corruptions"] == found[1]["corruptions"]
    assert 0 < found[0]["value"] < 1
    gate("-n0", *arguments, "--dataset=cifar10-sample").stdout.fnmatch_lines(["*cost * (0 measured in this run, *"])
    assert "images have 8x8 pixels" in gate("-n0", *arguments, "-rs").stdout.str()


def test_thresholds_by_corruption(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("[common_corruptions]\nleast = 0.5\nfog = 0.4\n[models.net.common_corruptions]\nsnow = 0.3\n")
    found = load_thresholds(file, "net", "data")
    assert (found.common_corruptions, dict(found.corruptions)) == (0.5, {"fog": 0.4, "snow": 0.3})
    assert load_thresholds(None).corruptions == {}
    for wrong, message in (("frog = 0.5", "did you mean 'common_corruptions.fog'"), ("fog = 2", "at most 1")):
        file.write_text(f"[common_corruptions]\n{wrong}\n")
        with pytest.raises(ValueError, match=message):
            load_thresholds(file)
