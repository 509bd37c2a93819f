"""Turn names of models and datasets on the command line into sources. Does not import torch."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from robustness_tests.subjects.catalog import DATASETS, MODEL_NAMES, closest, models_of

MODEL_FORMS = (
    "robustbench:DATASET/THREAT/NAME",
    "torchvision:NAME",
    "timm:NAME",
    "hf:OWNER/NAME",
    "hf:FOLDER",
    "package.module:factory",
    "path/file.py:factory",
    "FILE.pt2",
    "FILE.pt",
    "FILE.onnx",
)
DATASET_FORMS = (
    "cifar10",
    "cifar100",
    "cifar10-c:CORRUPTION:SEVERITY",
    "cifar100-c:CORRUPTION:SEVERITY",
    "npz:FILE",
    "folder:DIR",
    "torchvision:NAME",
    "hf:NAME:SPLIT",
    "package.module:attribute",
    "path/file.py:attribute",
)

CIFAR10_MODELS = {
    "standard": "robustbench:cifar10/Linf/Standard",
    "robust": "robustbench:cifar10/corruptions/Hendrycks2020AugMix_WRN",
}
"""The models that `standard` and `robust` name on CIFAR-10, a comparison like the study's: a standard
WideResNet-28-10 and an AugMix-trained WideResNet-40-2 (Hendrycks et al. 2020)."""

CORRUPTIONS = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
)
"""The 15 corruptions of CIFAR-10-C (Hendrycks & Dietterich 2019) that results are reported on."""

HUB_NAME = r"\w[\w.-]{0,95}(/[\w.-]{1,96})?"
"""A name in the hub of Hugging Face: OWNER/NAME, or a NAME without owner."""

SMALLEST_CORRUPTED = 32
"""The shortest side, in pixels, of an image that the corruptions are defined for."""

THREATS = ("Linf", "L2", "corruptions", "corruptions_3d")
"""Threat models of RobustBench."""

_ATTRIBUTE = r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*"


@dataclass(frozen=True)
class Source:
    """A model or a dataset, as named on the command line.

    Attributes:
        kind: how it is loaded: "bundled", "robustbench", "torchvision", "timm", "hf" (Hugging Face), "object" (an
            attribute of a module or a file), "exported" (.pt2), "torchscript" (.pt), "onnx", "cifar10", "cifar10-c",
            "npz" or "folder".
        text: as given.
        name: name in test ids, the report and the names of stored files, without spaces, slashes or colons.
        location: absolute path of a file or folder, name of a module, dataset of a bundled model, or the rest of the
            text after the kind.
        attribute: dotted name of the attribute of the module or file; empty for the other kinds.
        folder: folder that is searched for modules first; empty for the other kinds.
    """

    kind: str
    text: str
    name: str
    location: str = ""
    attribute: str = ""
    folder: str = ""


def model_source(text: str, dataset: Source, folder: Path) -> Source:
    """The source of the model that `text` names for this dataset; relative paths start at `folder`.

    Raises:
        ValueError: for an unknown name, with the closest match, or a file that does not exist.

    Example:
        >>> model_source("torchvision:resnet18", dataset_source("cifar10", Path()), Path()).name
        'torchvision.resnet18'
    """
    if dataset.kind in ("cifar10", "cifar10-c") and text in CIFAR10_MODELS:
        return replace(model_source(CIFAR10_MODELS[text], dataset, folder), text=CIFAR10_MODELS[text], name=text)
    bundled = models_of(dataset.name) if dataset.kind == "bundled" else []
    if text in bundled:
        return Source("bundled", text, text, dataset.name)
    known = bundled or (list(CIFAR10_MODELS) if dataset.kind in ("cifar10", "cifar10-c") else [])
    kind, colon, rest = text.partition(":")
    if colon and kind in MODEL_LIBRARIES:
        return MODEL_LIBRARIES[kind](text, rest, folder)
    if suffix := next((one for one in FILES if text.endswith(one)), None):
        path = _existing(text, text, folder)
        return Source(FILES[suffix], text, _name(path.stem), str(path))
    found = _object(text, folder)
    if found is None:
        raise ValueError(f"got {text!r}, {_expected(text, known, MODEL_FORMS)}")
    return found


FILES = {".pt2": "exported", ".pt": "torchscript", ".onnx": "onnx"}
"""The kinds of model files, by the ends of their names."""


def _hugging_face(text: str, rest: str, folder: Path) -> Source:
    """A folder that is there, or a name in the hub: OWNER/NAME, or a NAME without owner."""
    if _is_folder(rest, folder):
        path = _existing(rest, text, folder)
        if not (path / "config.json").is_file():
            raise ValueError(f"got {text!r}, a folder without config.json, expected one of model.save_pretrained()")
        return Source("hf", text, _name(f"hf.{path.name}"), str(path))
    if not re.fullmatch(HUB_NAME, rest, re.ASCII):
        raise ValueError(f"got {text!r}, but there is no such folder, and it is no name: expected hf:OWNER/NAME")
    return Source("hf", text, _name(f"hf.{rest}"), rest)


def dataset_source(text: str, folder: Path) -> Source:
    """The source of the dataset that `text` names; relative paths start at `folder`.

    Raises:
        ValueError: for an unknown name, with the closest match, or a file that does not exist.

    Example:
        >>> dataset_source("cifar10-c:fog:3", Path()).name
        'cifar10-c.fog.3'
    """
    if text in DATASETS:
        return Source("bundled", text, text)
    if text == "cifar10":
        return Source("cifar10", text, text)
    if text == "cifar100":
        return Source("torchvision", text, text, "CIFAR100")
    kind, colon, rest = text.partition(":")
    if kind in DATASET_LIBRARIES and (colon or kind in ("cifar10-c", "cifar100-c")):
        return DATASET_LIBRARIES[kind](text, rest, folder)
    found = _object(text, folder)
    if found is None:
        raise ValueError(f"got {text!r}, {_expected(text, list(DATASETS), DATASET_FORMS)}")
    return found


def _library(text: str, rest: str, folder: Path) -> Source:
    """A name in a library: torchvision:resnet18."""
    del folder
    kind = text.partition(":")[0]
    if not rest:
        raise ValueError(f"got {text!r}, expected {kind}:NAME")
    return Source(kind, text, _name(f"{kind}.{rest}"), rest)


def _file_or_folder(text: str, rest: str, folder: Path) -> Source:
    kind, path = text.partition(":")[0], _existing(rest, text, folder)
    if path.is_dir() != (kind == "folder"):
        what = ("a file", "a folder") if kind == "folder" else ("a folder", "a file")
        raise ValueError(f"got {text!r}, which is {what[0]}, expected {what[1]}")
    return Source(kind, text, _name(path.stem if kind == "npz" else path.name), str(path))


def _hugging_face_dataset(text: str, rest: str, folder: Path) -> Source:
    """NAME:SPLIT, or NAME:SPLIT:IMAGES:LABELS with the names of the columns; NAME may be a folder."""
    name, *others = rest.split(":")
    if len(others) not in (1, 3) or not all((name, *others)):
        raise ValueError(f"got {text!r}, expected hf:NAME:SPLIT, or hf:NAME:SPLIT:IMAGES:LABELS with the columns")
    where, short = name, name
    if _is_folder(name, folder):
        path = _existing(name, text, folder)
        where, short = str(path), path.name
    elif not re.fullmatch(HUB_NAME, name, re.ASCII):
        raise ValueError(f"got {text!r}, but there is no such folder, and it is no name: expected hf:OWNER/NAME:SPLIT")
    return Source("hf", text, _name(f"hf.{short}.{others[0]}"), ":".join([where, *others]))


def _expected(text: str, known: list[str], forms: tuple[str, ...]) -> str:
    """A hint with the known names and forms, and the closest match."""
    hint = closest(text, [*known, *forms])
    return hint if known else hint.replace("expected one of", "expected, for this dataset, one of")


def _robustbench(text: str, rest: str, folder: Path) -> Source:
    del folder
    parts = rest.split("/")
    if len(parts) != 3 or not all(parts):
        raise ValueError(
            f"got {text!r}, expected robustbench:DATASET/THREAT/NAME: "
            "robustbench:cifar10/corruptions/Hendrycks2020AugMix_WRN, for example"
        )
    dataset, threat, name = parts
    for got, known in ((dataset, ("cifar10", "cifar100", "imagenet")), (threat, THREATS)):
        if got not in known:
            raise ValueError(f"got {got!r} in {text!r}, {closest(got, known)}")
    return Source("robustbench", text, _name(name), rest)


def _corrupted_cifar(text: str, rest: str, folder: Path) -> Source:
    """A corruption and a severity: cifar10-c:fog:3."""
    del folder
    kind = text.partition(":")[0]
    corruption, _, severity = rest.partition(":")
    if corruption not in CORRUPTIONS:
        raise ValueError(f"got corruption {corruption!r} in {text!r}, {closest(corruption, CORRUPTIONS)}")
    if severity not in ("1", "2", "3", "4", "5"):
        raise ValueError(f"got severity {severity!r} in {text!r}, expected 1 to 5: {kind}:{corruption}:3")
    return Source(kind, text, f"{kind}.{corruption}.{severity}", f"{corruption}:{severity}")


def _object(text: str, folder: Path) -> Source | None:
    """The attribute of a file or of a module, or None if the text is neither."""
    location, colon, attribute = text.rpartition(":")
    if not colon or not re.fullmatch(_ATTRIBUTE, attribute):
        # The colon of a drive letter is not ours.
        if text.endswith(".py") or location.endswith(".py"):
            raise ValueError(f"got {text!r}, expected path/file.py:NAME, the name of a function or object in the file")
        return None
    if location.endswith(".py"):
        path = _existing(location, text, folder)
        return Source("object", text, _name(f"{path.stem}.{attribute}"), str(path), attribute, str(folder))
    if re.fullmatch(_ATTRIBUTE, location):
        return Source("object", text, _name(f"{location}.{attribute}"), location, attribute, str(folder))
    return None


def _is_folder(path: str, folder: Path) -> bool:
    """Whether there is such a folder; a text that is no path is none."""
    try:
        return (folder / Path(path).expanduser()).is_dir()
    except (OSError, RuntimeError, ValueError):  # too long, no such user, a null byte
        return False


def _existing(path: str, text: str, folder: Path) -> Path:
    try:
        existing = folder / Path(path).expanduser()
        there = bool(path) and existing.exists()
    except (OSError, RuntimeError, ValueError) as error:  # no such user, too long, a null byte
        raise ValueError(f"got {text!r}, which is no path: {error}") from error
    if not there:
        raise ValueError(f"got {text!r}, but there is no {str(existing) if path else 'path in it'!r}")
    return existing.resolve()


def _name(text: str) -> str:
    """A name that is valid in a test id, in a `-k` expression and in a file name."""
    name = re.sub(r"[^\w.]+", "_", text, flags=re.ASCII).strip("._") or "unnamed"
    # A user's file must not be confused with a bundled model or dataset of its name, or get its thresholds.
    return f"{name}.file" if name in (*MODEL_NAMES, *DATASETS, "cifar10", "cifar100") else name


Reader = Callable[[str, str, Path], Source]

MODEL_LIBRARIES: Mapping[str, Reader] = {
    "robustbench": _robustbench,
    "torchvision": _library,
    "timm": _library,
    "hf": _hugging_face,
}
"""What reads the text of a model that begins with this word and a colon."""

DATASET_LIBRARIES: Mapping[str, Reader] = {
    "cifar10-c": _corrupted_cifar,
    "cifar100-c": _corrupted_cifar,
    "torchvision": _library,
    "hf": _hugging_face_dataset,
    "npz": _file_or_folder,
    "folder": _file_or_folder,
}
"""What reads the text of a dataset that begins with this word and a colon."""
