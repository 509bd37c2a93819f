"""Check models and data in a separate process before a run, and collect what the run needs to know about them.

The process is separate because the controller of a distributed run imports neither torch nor user code.
"""

import json
import logging
import math
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustness_tests.subjects.catalog import DATASETS, MODELS, NORMS
from robustness_tests.subjects.image_size import ImageSize
from robustness_tests.subjects.sources import Source

if TYPE_CHECKING:
    from robustness_tests.subjects.images import Images

CODE = "from robustness_tests.subjects.subject_check import main; main()"

SHORT = 8
"""Characters of the digest of an image."""

MAX_BATCH_SIZE = 20
"""Largest batch on a CPU, small enough that a run on a few images does not measure many more."""

MULTIPLICATIONS_AT_ONCE = 10**9
"""Multiplications per batch on a CPU: larger batches are no faster, and a run on few images measures whole batches."""


@dataclass(frozen=True)
class CheckedSubjects:
    """What a run knows about its dataset and models.

    Attributes:
        test_images: number of images in the test split; every dataset index is below it.
        values: number of values in an image: channels x height x width.
        clever_radius: radius of CLEVER's ball for each norm.
        batch_sizes: for each model, the number of images to measure together on a CPU, at most 20.
        digests: digest of each model that was loaded.
        remarks: what a user should know before the run.
        class_names: names of the classes, for image folders and bundled datasets; empty for others.
        image_digests: short digests of the images of the run, in order; empty if models and dataset are all bundled.
        image_size: what pictures are brought to; None for no change.
        sample: dataset indices of the images of the run, in order; empty if they are the first ones.
    """

    test_images: int
    values: int
    clever_radius: Mapping[str, float]
    batch_sizes: Mapping[str, int]
    digests: Mapping[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    image_digests: tuple[str, ...] = ()
    image_size: ImageSize | None = None
    sample: tuple[int, ...] = ()

    def to_json(self) -> str:
        """As text, for another process."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> "CheckedSubjects":
        """From the text of `to_json`."""
        fields = json.loads(text)
        lists = {name: tuple(fields[name]) for name in ("remarks", "class_names", "image_digests", "sample")}
        return CheckedSubjects(**{**fields, **lists, "image_size": _size(fields["image_size"])})


def _size(fields: Mapping[str, Any] | None) -> ImageSize | None:
    if fields is None:
        return None
    return ImageSize(**{**fields, "resize": tuple(fields["resize"]), "crop": tuple(fields["crop"])})


class WrongSubjectError(ValueError):
    """Raised for a model or dataset that cannot be tested; `option` is the command-line option that named it."""

    def __init__(self, option: str, message: str) -> None:
        super().__init__(message)
        self.option = option


def check_subjects(
    models: Mapping[str, Source],
    dataset: Source,
    *,
    images: int,
    device: str,
    data_dir: Path,
    size: ImageSize | None = None,
    sampling: str = "first",
    seed: int = 0,
) -> CheckedSubjects:
    """Check the models and dataset of a run: bundled ones against the catalog, others in a separate process.

    Args:
        models: sources of the models by option, "model" and "against".
        dataset: source of the dataset.
        images: largest number of images in the run.
        device: "auto", "cpu", "cuda" or "cuda:N".
        data_dir: folder of named datasets and RobustBench checkpoints.
        size: what pictures are brought to, if the user states it.
        sampling: which images are taken: "first", "stratified" or "random".
        seed: seed of a sample.

    Raises:
        WrongSubjectError: for the first model or dataset that cannot be tested.
    """
    plain = size is None and sampling == "first"
    if plain and dataset.kind == "bundled" and all(source.kind == "bundled" for source in models.values()):
        for option, source in models.items():
            try:
                MODELS[source.location, source.name].check_weights()
            except ValueError as error:
                raise WrongSubjectError(option, str(error)) from error
        card = DATASETS[dataset.name]
        if card.sha256:
            try:
                card.check_file()
            except ValueError as error:
                raise WrongSubjectError("dataset", str(error)) from error
        batch_sizes = {source.name: MAX_BATCH_SIZE for source in models.values()}
        return CheckedSubjects(
            card.test_images, card.values, dict(card.clever_radius), batch_sizes, class_names=card.class_names
        )
    request = {
        "models": {option: asdict(source) for option, source in models.items()},
        "dataset": asdict(dataset),
        "images": images,
        "device": device,
        "data_dir": str(data_dir),
        "size": None if size is None else asdict(size),
        "sampling": sampling,
        "seed": seed,
    }
    return _check_in_a_process(request)


def _check_in_a_process(request: dict[str, Any]) -> CheckedSubjects:
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(path for path in sys.path if path))
    # On a terminal, show output such as the progress of downloads; in a log, hide what user code prints.
    shown = None if sys.stderr is not None and sys.stderr.isatty() else subprocess.PIPE
    if shown is None:
        names = ", ".join(dict.fromkeys(one["text"] for one in (*request["models"].values(), request["dataset"])))
        print(f"robustness: looking at {names}", file=sys.stderr)  # noqa: T201  # on a terminal: it takes some seconds
    with tempfile.TemporaryDirectory(prefix="robustness-check-") as folder:
        answer = Path(folder, "answer.json")
        done = subprocess.run(
            [sys.executable, "-c", CODE, str(answer)],
            input=json.dumps(request),
            stdout=sys.stderr.fileno() if shown is None else subprocess.DEVNULL,
            stderr=shown,
            text=True,
            env=environment,
            check=False,
        )
        if not answer.is_file():
            last = (done.stderr or "").strip().rpartition("\n")[2]
            raise WrongSubjectError(
                "model",
                f"got a model that ended the process which loads it (exit status {done.returncode}) {last}".strip(),
            )
        content = json.loads(answer.read_text(encoding="utf-8"))
    if "wrong" in content:
        raise WrongSubjectError(content["option"], content["wrong"])
    return CheckedSubjects.from_json(json.dumps(content))


def main() -> None:
    """Read a request from standard input, and write the answer to the file named on the command line."""
    request = json.load(sys.stdin)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    try:
        answer = asdict(check_request(request))
    except WrongSubjectError as error:
        answer = {"wrong": " ".join(str(error).split()), "option": error.option}
    Path(sys.argv[1]).write_text(json.dumps(answer), encoding="utf-8")


def check_request(request: dict[str, Any]) -> CheckedSubjects:
    """Check models and dataset in this process.

    Raises:
        WrongSubjectError: for the first model or dataset that cannot be tested.
    """
    # Not at the top: the controller imports this module, but must not import torch.
    from robustness_tests.subjects.model_check import (  # noqa: PLC0415
        CheckedModel,
        check_class_names,
        check_deployed,
        check_network,
    )
    from robustness_tests.subjects.models import load_model, model_digest  # noqa: PLC0415
    from robustness_tests.subjects.onnx_file import check_against_onnxruntime, check_not_quantised  # noqa: PLC0415
    from robustness_tests.subjects.outputs import LOOKED_AT, OneByOne, adapted  # noqa: PLC0415
    from robustness_tests.subjects.reproducible import reproducible, resolve_device  # noqa: PLC0415

    data_dir, device = Path(request["data_dir"]), resolve_device(request["device"])
    dataset = Source(**request["dataset"])
    images, size, remarks = _looked_at(request, dataset, data_dir)
    with _told_by("dataset"):
        image_digests = _digests(images, request["images"])
    few = images.images[:LOOKED_AT].to(device)
    checked: dict[str, CheckedModel] = {}
    digests: dict[str, str] = {}
    for option, fields in request["models"].items():
        source = Source(**fields)
        if source.name in digests:
            continue
        with _told_by(option), reproducible():
            loaded = load_model(source, data_dir, device)
        with _told_by(option), reproducible():
            network, of_model = adapted(loaded, few)
            remarks += [f"{source.name}: {remark}" for remark in of_model]
            if source.kind == "onnx":
                if option != "deployed":
                    check_not_quantised(Path(source.location))
                check_against_onnxruntime(Path(source.location), loaded, images.images[:8].to(device))
            check_class_names(network, images)
            if option == "deployed":
                check_deployed(OneByOne(network), images, device)
            else:
                checked[source.name] = check_network(network, images, device)
            digests[source.name] = model_digest(source, network, images, device)
            # Weights of a file are the same every time; a function may be random.
            again = load_model(source, data_dir, device) if source.kind == "object" else None
            again = None if again is None else adapted(again, few)[0]
            if again is not None and model_digest(source, again, images, device) != digests[source.name]:
                raise ValueError(
                    f"got two different models from two calls of {source.attribute}(), expected the same weights: load "
                    "them, or seed what is random"
                )
    run_labels = images.labels[: request["images"]].tolist()
    return CheckedSubjects(
        test_images=images.total,
        values=images.images[0].numel(),
        clever_radius=_clever_radius(dataset, list(checked.values())),
        batch_sizes={name: _batch_size(one.multiplications) for name, one in checked.items()},
        digests=digests,
        remarks=(*remarks, *_remarks(run_labels, images.class_names, images.largest_label + 1)),
        class_names=images.class_names,
        image_digests=image_digests,
        image_size=size,
        sample=() if images.indices is None else images.indices[: request["images"]],
    )


def _looked_at(
    request: Mapping[str, Any], dataset: Source, data_dir: Path
) -> tuple["Images", ImageSize | None, list[str]]:
    """The images of the check, the size that they were brought to, and remarks."""
    from robustness_tests.subjects.datasets import load_dataset, order_for  # noqa: PLC0415  # torch
    from robustness_tests.subjects.image_folder import left_out  # noqa: PLC0415
    from robustness_tests.subjects.model_check import MAX_ACCURACY_IMAGES  # noqa: PLC0415

    given = _size(request["size"])
    size = given or _size_of_models({option: Source(**fields) for option, fields in request["models"].items()})
    count, order = max(MAX_ACCURACY_IMAGES, request["images"]), order_for(request["sampling"], request["seed"])
    with _told_by("dataset"):
        images = load_dataset(dataset, data_dir, count, size, order)
        # Code of the user may be random.
        again = load_dataset(dataset, data_dir, count, size, order) if dataset.kind == "object" else None
        if again is not None and _digests(again) != _digests(images):
            raise ValueError(
                f"got two different datasets when {dataset.text!r} was loaded twice, expected the same images: seed "
                "what is random, and leave it out of the transform"
            )
        height, width = images.images[0].shape[1:]
    remarks = [*left_out(Path(dataset.location))] if dataset.kind == "folder" else []
    if size is None or images.pictures:
        return images, size, remarks
    if given is not None:
        raise WrongSubjectError(
            "image-size",
            f"got {given}, and images of {height}x{width} pixels that are no pictures, expected a dataset of image "
            "files: arrays and tensors are not resized",
        )
    remarks.append(f"a model states the size {size}; the images are arrays of {height}x{width}, and not resized")
    return images, None, remarks


def _digests(images: "Images", count: int | None = None) -> tuple[str, ...]:
    """Short digests of the first `count` images, or of all that are loaded."""
    known = len(images.labels) if count is None else min(count, len(images.labels))
    return tuple(images.digest(slice(index, index + 1))[:SHORT] for index in range(known))


def _size_of_models(sources: Mapping[str, Source]) -> ImageSize | None:
    """The size that the models state, if one does."""
    from robustness_tests.subjects.preprocessing import preprocessing_of  # noqa: PLC0415  # torch

    stated: dict[str, ImageSize] = {}
    for option, source in sources.items():
        with _told_by(option):
            size = preprocessing_of(source)
        if size is not None:
            stated[option] = size
    if len(set(stated.values())) > 1:
        told = ", and ".join(f"--{option} for {size}" for option, size in stated.items())
        raise WrongSubjectError(
            list(stated)[-1],
            f"got models for pictures of several sizes ({told}), expected one size: state it with --image-size",
        )
    return next(iter(stated.values()), None)


@contextmanager
def _told_by(option: str) -> Iterator[None]:
    """Turn any exception in the block into a `WrongSubjectError` about an option, or about the dataset."""
    from robustness_tests.subjects.pixels import WrongImageError  # noqa: PLC0415  # torch

    try:
        yield
    except WrongImageError as error:
        raise WrongSubjectError("dataset", str(error)) from error
    except ValueError as error:
        raise WrongSubjectError(option, str(error)) from error
    except (Exception, SystemExit) as error:  # code of the user, and libraries that it is handed to
        text = " ".join(str(error).split())[:300]
        what = "images and labels" if option == "dataset" else "a classifier"
        raise WrongSubjectError(option, f"got {type(error).__name__} ({text}), expected {what}") from error


def _clever_radius(dataset: Source, checked: list[Any]) -> dict[str, float]:
    if dataset.kind == "bundled":
        return dict(DATASETS[dataset.name].clever_radius)
    # So large that the cap decides few scores. Twice as large in L1, since random points of an L1 ball hardly ever come
    # near its corners.
    factor = {"l1": 6.0}
    return {norm: rounded_up(factor.get(norm, 3.0) * max(one.distances[norm] for one in checked)) for norm in NORMS}


def rounded_up(value: float) -> float:
    """Round up to 1, 2 or 5 times a power of ten, so that a small change of a model rarely changes the result.

    Example:
        >>> rounded_up(0.013), rounded_up(0.5), rounded_up(7.0)
        (0.02, 0.5, 10.0)
    """
    power = math.floor(math.log10(value))
    for digit in (1, 2, 5, 10):
        rounded = float(f"{digit}e{power}")
        if rounded >= value * (1 - 1e-9):
            return rounded
    raise AssertionError(f"no power of ten above {value}")


def _batch_size(multiplications: int) -> int:
    return max(1, min(MAX_BATCH_SIZE, MULTIPLICATIONS_AT_ONCE // max(1, multiplications)))


def _remarks(labels: list[int], class_names: tuple[str, ...], known: int) -> list[str]:
    remarks = []
    if class_names:
        named = [
            str(number) if name == str(number) else f"{number} {name}"
            for number, name in enumerate(class_names)
            if name
        ]
        some, more = named[:12], f", and {len(named) - 12} more" if len(named) > 12 else ""
        remarks.append(f"classes: {', '.join(some)}{more}")
    # The number of classes among as many images that are drawn at random; all of them may be of the only known class.
    known = max(known, 2)
    expected = known * (1 - (1 - 1 / known) ** len(labels))
    if len(labels) >= 10 and len(set(labels)) <= 0.5 * expected + 0.01:
        remarks.append(
            f"the {len(labels)} images of this run are of {len(set(labels))} of the classes: is the dataset sorted by "
            "class? --sample=stratified takes them in turn"
        )
    return remarks
