"""Input that somebody, or a bad disk, has changed: it is read, or refused in one line, and never a traceback of ours.

Files that are right are changed at random places, which gets further into the code than random bytes.
"""

import copy
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from meta_tests.runs import records_of_images, results_of, run_of
from reports.__main__ import main
from robustness_tests.harness import option_values
from robustness_tests.harness.baseline import load_baseline
from robustness_tests.harness.thresholds import DEFAULT_FILE, load_thresholds
from robustness_tests.subjects.catalog import DATASETS, MODEL_NAMES
from robustness_tests.subjects.datasets import npz
from robustness_tests.subjects.image_folder import image_folder
from robustness_tests.subjects.image_size import image_size
from robustness_tests.subjects.sources import DATASET_FORMS, MODEL_FORMS, Source, dataset_source, model_source

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.sampled_from([0, 1, -1, 1e308, -0.0, math.pi]),
    st.text(max_size=8),
    # Copies: later changes go into them.
    st.sampled_from([[], {}, [None], [[]], {"": {}}, "linf", "passed", "<script>alert"]).map(copy.deepcopy),
)
IN_A_FOLDER = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def read(function, *arguments):
    """What a function returns; None if it refuses, in one line, what it got."""
    try:
        return function(*arguments)
    except ValueError as error:
        message = str(error)
    assert message.startswith("got ")
    return None


@st.composite
def changed(draw, content, changes=3):
    """The same lists and dictionaries with a few values replaced, removed or doubled."""
    content = copy.deepcopy(content)
    for _ in range(draw(st.integers(1, changes))):
        place = content
        while True:
            if not place:
                break
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = draw(st.sampled_from(keys))
            deeper = isinstance(place[key], dict | list) and bool(place[key])
            if deeper and draw(st.integers(0, 5)):
                place = place[key]
                continue
            if draw(st.integers(0, 3)):
                place[key] = draw(VALUES)
            elif isinstance(place, dict) or draw(st.booleans()):
                del place[key]
            else:
                place.append(place[key])
            break
    return content


@st.composite
def changed_bytes(draw, content):
    """The same bytes with a few changed, cut or inserted."""
    found = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(found) - 1)))
        length = draw(st.integers(0, 40))
        found[at : at + length] = draw(st.binary(max_size=40))
    return bytes(found)


RUN = run_of(("robust", "standard"))
RESULTS = results_of(*records_of_images(RUN, 3), run=RUN).to_json()
DEFAULTS = DEFAULT_FILE.read_text(encoding="utf-8")


@settings(IN_A_FOLDER, max_examples=30)  # a page takes a while
@given(content=changed(RESULTS))
def test_results(tmp_path, capsys, content):
    file = tmp_path / "results.json"
    file.write_text(json.dumps(content))
    status = 0
    try:
        main([str(file)])
    except SystemExit as error:
        status = error.code
    said = capsys.readouterr().err.strip().splitlines()
    if status:
        assert status == 2
        assert said[-1].startswith("python -m reports: error: got ")
    else:
        assert "<script>alert" not in (tmp_path / "results.html").read_text()


@IN_A_FOLDER
@given(content=changed(RESULTS))
def test_baseline(tmp_path, content):
    file = tmp_path / "results.json"
    file.write_text(json.dumps(content))
    baseline = read(load_baseline, file, "last.json")
    assert baseline is None or isinstance(baseline.model, str)


@IN_A_FOLDER
@given(text=changed_bytes(DEFAULTS.encode()))
def test_thresholds(tmp_path, text):
    file = tmp_path / "mine.toml"
    file.write_bytes(text)
    thresholds = read(load_thresholds, file, "robust", "digits")
    if thresholds is not None:
        assert 0 < thresholds.confidence < 1
        assert thresholds.clean_accuracy is None or 0 <= thresholds.clean_accuracy <= 1


def archive(compressed):
    file = io.BytesIO()
    images = np.random.default_rng(0).random((6, 1, 4, 4), dtype=np.float32)
    (np.savez_compressed if compressed else np.savez)(file, images=images, labels=np.arange(6))
    return file.getvalue()


@pytest.mark.parametrize("compressed", [False, True])
@IN_A_FOLDER
@given(data=st.data())
def test_npz(tmp_path, compressed, data):
    file = tmp_path / "images.npz"
    file.write_bytes(data.draw(changed_bytes(archive(compressed))))
    found = read(npz, file)
    if found is not None:
        images = found.images[:]
        assert images.isfinite().all()
        assert float(images.min()) >= 0
        assert float(images.max()) <= 1


def picture(kind):
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("kind", ["png", "jpeg", "bmp", "webp", "tiff"])
@IN_A_FOLDER
@given(data=st.data())
def test_pictures(tmp_path, kind, data):
    """A JPEG has no checksum, so what is read may be another picture: but a picture."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / f"0.{kind}").write_bytes(picture(kind))
    (tmp_path / "a" / f"0.{kind}").write_bytes(data.draw(changed_bytes(picture(kind))))
    found = read(image_folder, tmp_path, 2, None)
    images = None if found is None else read(lambda: found.images[:])
    if images is not None:
        assert images.shape == (2, 3, 24, 24)
        assert float(images.min()) >= 0
        assert float(images.max()) <= 1


WORDS = st.one_of(
    st.text(max_size=12),
    st.lists(
        st.sampled_from(
            [*MODEL_NAMES, *DATASETS, *MODEL_FORMS, *DATASET_FORMS, *":/=,.x-1", "auto", "linf", "224", "\0"]
        ),
        max_size=5,
    ).map("".join),
)
DIGITS = Source("bundled", "digits", "digits")
CHECKS = {
    "norms": option_values.norms,
    "clever-radius": option_values.radii,
    "images": option_values.limit,
    "batch-size": option_values.positive,
    "seed": option_values.natural,
    "timeout-per-batch": option_values.seconds,
    "device": option_values.device,
    "image-size": image_size,
    "dataset": lambda text: dataset_source(text, Path("/nowhere")),
    "model": lambda text: model_source(text, DIGITS, Path("/nowhere")),
}


@pytest.mark.parametrize("name", CHECKS)
@settings(max_examples=200, deadline=None)
@given(text=WORDS)
def test_options(name, text):
    read(CHECKS[name], text)
