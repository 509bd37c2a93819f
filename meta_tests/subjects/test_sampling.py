"""Which images are measured: `--sample`. An image keeps its dataset index, and therefore its numbers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from meta_tests.subjects.test_forms_of_data import looked_at
from robustness_tests.harness.options import SAMPLES as NAMES
from robustness_tests.subjects.datasets import digits, load_dataset, order_for
from robustness_tests.subjects.images import images_and_labels
from robustness_tests.subjects.sampling import SAMPLES, order_of
from robustness_tests.subjects.sources import dataset_source


def test_names_known_without_torch():
    assert NAMES == SAMPLES


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=60).map(np.asarray), st.sampled_from(SAMPLES), st.integers(0, 9)
)
def test_an_order_is_a_permutation_that_the_seed_decides(labels, sample, seed):
    order = order_of(labels, sample, seed)
    assert sorted(order) == list(range(len(labels)))
    assert order == order_of(labels, sample, seed)
    if sample == "first":
        assert order == sorted(order)
    if sample == "stratified":
        classes = len(set(labels.tolist()))
        assert len(set(labels[order[:classes]].tolist())) == classes, "each class once"
        rounds = np.unique(labels, return_counts=True)[1].min()
        assert np.unique(labels[order[: classes * rounds]], return_counts=True)[1].tolist() == [rounds] * classes


def test_every_image_is_as_likely_at_random():
    """Of 20 images, 5 are drawn 4,000 times: each 1,000 times, with a standard deviation of 27."""
    drawn = np.bincount(np.concatenate([order_of(np.zeros(20), "random", seed)[:5] for seed in range(4_000)]))
    assert np.abs(drawn - 1_000).max() < 4 * 27.4
    assert order_of(np.zeros(20), "random", 0) != order_of(np.zeros(20), "random", 1)


@pytest.mark.parametrize("sample", ["stratified", "random"])
def test_every_form_of_a_dataset_is_sampled_alike(sample, tmp_path):
    """Arrays, a Dataset of a file, and the bundled digits: the same images, with their dataset indices."""
    whole = digits("test")
    np.savez(tmp_path / "some.npz", images=whole.images.numpy(), labels=whole.labels.numpy())
    (tmp_path / "mine.py").write_text(
        "import numpy, pathlib, torch\n"
        "arrays = numpy.load(pathlib.Path(__file__).with_name('some.npz'))\n"
        "tensors = [torch.from_numpy(arrays[name]) for name in ('images', 'labels')]\n"
        "items = torch.utils.data.TensorDataset(*tensors)\n"
    )
    order = order_of(whole.labels.numpy(), sample, 3)[:12]
    for text in ("npz:some.npz", "mine.py:items", "digits"):
        found = load_dataset(dataset_source(text, tmp_path), tmp_path, 12, None, order_for(sample, 3))
        assert found.total == 360
        assert [found.index(position) for position in range(12)] == order
        assert found.images[:12].equal(whole.images[order])
        assert found.labels[:12].equal(whole.labels[order])


def test_without_a_sample_the_first_images_are_taken():
    some = images_and_labels(torch.rand(5, 1, 2, 2), torch.arange(5), 3)
    assert [some.index(position) for position in range(3)] == [0, 1, 2]


def test_sample_is_part_of_what_is_known_of_a_run(tmp_path):
    seen = looked_at("mlp", "digits", tmp_path, sampling="stratified")
    assert len(seen.sample) == 5
    assert len({int(digits("test").labels[row]) for row in seen.sample}) == 5
    assert looked_at("mlp", "digits", tmp_path).sample == ()


def sorted_digits(folder):
    whole = digits("test")
    order = whole.labels.argsort(stable=True)
    np.savez(folder / "sorted.npz", images=whole.images[order].numpy(), labels=whole.labels[order].numpy())
    (folder / "net.py").write_text(
        "from robustness_tests.subjects.catalog import MODELS\n"
        "from robustness_tests.subjects.models import bundled\n"
        "def net():\n    return bundled(MODELS['digits', 'mlp'])\n"
    )


def test_through_the_gate(gate):
    """A file that is sorted by class: a sample covers the classes, and an image has its number in any sample."""
    sorted_digits(gate.folder)
    few = ("--model=net.py:net", "--dataset=npz:sorted.npz", "--quick", "--batch-size=1", "--norms=linf")
    distances = {}
    for workers, sample, images in (("-n2", "stratified", "12"), ("-n0", "random", "12")):
        result = gate(workers, *few, f"--sample={sample}", f"--images={images}", "--seed=3", "--certify=off")
        assert result.ret == 0, result.stdout.str()
        result.stdout.fnmatch_lines([f"robustness: * 12 images ({sample}), *"])
        run, rows = gate.results()["run"], gate.results()["images"]
        assert {row["image"] for row in rows} == set(run["sample"])
        for row in rows:
            # The score has its own random points.
            numbers = row["distance"], row["clever"]
            assert distances.setdefault(row["image"], numbers) == numbers
    labels = np.load(gate.folder / "sorted.npz")["labels"]
    assert len(distances) > 12
    assert len({int(labels[image]) for image in distances}) == 10
    one = min(distances)
    result = gate("-n0", *few, "--images", str(one + 1), "--seed=3", "--certify=off", "-k", f"real and {one:05d}")
    (row,) = [row for row in gate.results()["images"] if row["image"] == one]
    assert row["distance"] == distances[one][0], "among the first images, too"


def test_a_baseline_of_another_sample_is_refused(gate):
    sorted_digits(gate.folder)
    few = ("--model=net.py:net", "--dataset=npz:sorted.npz", "--quick", "--images=5", "--norms=linf", "--certify=off")
    assert gate("-n0", *few, "--sample=random").ret == 0
    (gate.results_folder / "results.json").rename(gate.folder / "last.json")
    again = gate("-n0", *few, "--sample=random", "--baseline=last.json")
    assert again.ret == 0, again.stdout.str()
    assert "clean accuracy since baseline" in again.stdout.str()
    refused = gate("-n0", *few, "--baseline=last.json")
    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    refused.stderr.fnmatch_lines(["*got 'last.json', measured with --sample=random, expected first, as in this run*"])
