"""Options of the command line, each with a twin in the ini file, and their checks. Imports no torch."""

import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from robustness_tests.harness.run import CERTIFIED_NORMS, RUN, Run, is_worker, worker_input
from robustness_tests.harness.thresholds import Thresholds, load_thresholds
from robustness_tests.harness.workers import visible_gpus
from robustness_tests.subjects.catalog import DATASETS, MODELS, NORMS, DatasetCard, closest

Value = TypeVar("Value")

CERTIFY = ("auto", "off", "require")
EFFORTS = ("quick", "default", "thorough")
"""Those of the metrics, which are not imported here: that would import torch."""


@dataclass(frozen=True)
class Option:
    """One option: `--NAME` on the command line, `robustness_NAME` in the ini file, and a default."""

    name: str
    default: str
    help: str
    metavar: str | None = None

    @property
    def is_flag(self) -> bool:
        """A flag has no value on the command line."""
        return self.metavar is None

    @property
    def ini(self) -> str:
        """The name of the twin in the ini file."""
        return f"robustness_{self.name.replace('-', '_')}"


OPTIONS = [
    Option("model", "robust", f"Model under release: {', '.join(MODELS)}", "NAME"),
    Option("against", "standard", "Model that it has to beat; the same as --model: no comparison", "NAME"),
    Option("dataset", "digits", f"Dataset: {', '.join(DATASETS)}", "NAME"),
    Option("images", "", "Number of test images, from the first on (default: 100, or 20 with --quick)", "N"),
    Option("effort", "", f"Budget for each image: {', '.join(EFFORTS)} (default: default)", "EFFORT"),
    Option("quick", "false", "The quick effort and few images: for a look, not for a release"),
    Option("norms", "linf,l2", f"Norms of the perturbations, separated by commas: {', '.join(NORMS)}", "NORMS"),
    Option(
        "certify",
        "auto",
        "Prove lower bounds: auto (the first 20 images, all with --effort thorough; skipped where there are no "
        "bounds), off, or require (every image, and it is a failure where there are none)",
        "WHETHER",
    ),
    Option(
        "batch-size",
        "",
        "Images measured together; CLEVER puts five samples of each through the model at once "
        "(default: 20 on a CPU, 100 on a GPU)",
        "N",
    ),
    Option("device", "auto", "auto, cpu, cuda or cuda:N; auto takes a GPU if there is one", "DEVICE"),
    Option("seed", "0", "Seed of everything that is random", "N"),
    Option("thresholds", "", "File that replaces values of robustness_tests/thresholds.toml", "FILE"),
    Option("results", "robustness-results", "Folder of the report, results.json and the measurements", "DIR"),
    Option("fresh", "false", "Measure everything anew, whatever is stored"),
]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register every option and its twin."""
    group = parser.getgroup("robustness", "robustness of image classifiers")
    for option in OPTIONS:
        # No defaults here: what is not given is looked up in the ini file.
        if option.is_flag:
            group.addoption(f"--{option.name}", action="store_true", default=None, help=option.help)
            parser.addini(option.ini, option.help, type="bool", default=option.default == "true")
        else:
            default = f" (default: {option.default})" if option.default else ""
            group.addoption(f"--{option.name}", metavar=option.metavar, default=None, help=option.help + default)
            parser.addini(option.ini, option.help, type="string", default=option.default)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Check the options before anything else happens."""
    config.stash[RUN] = run_from(config)


def run_from(config: pytest.Config) -> Run:
    """The run that the options ask for.

    Raises:
        pytest.UsageError: for the first value that is wrong, with what was given, what is known, and the closest match.
    """
    given = {option.name: _given(config, option) for option in OPTIONS}
    quick = bool(given["quick"])
    effort = (
        _checked("effort", given["effort"], lambda word: _choice(word, EFFORTS))
        if given["effort"]
        else ("quick" if quick else "default")
    )
    if quick and effort != "quick":
        raise pytest.UsageError(f"--effort: got {effort!r} together with --quick, expected one of the two")
    dataset = _checked("dataset", given["dataset"], _dataset)
    images = _checked("images", given["images"], lambda text: _images(text, dataset)) if given["images"] else None
    default_images = min(20 if quick else 100, dataset.test_images)
    model = _checked("model", given["model"], lambda name: _model(name, dataset))
    batch_size = _checked("batch-size", given["batch-size"], _positive) if given["batch-size"] else None
    norms = _checked("norms", given["norms"], _norms)
    certify = _checked("certify", given["certify"], lambda word: _choice(word, CERTIFY))
    if certify == "require" and not set(norms) & set(CERTIFIED_NORMS):
        raise pytest.UsageError(
            f"--certify: got 'require' with --norms {','.join(norms)}, expected linf or l2 among them"
        )
    return Run(
        model=model,
        against=_checked("against", given["against"], lambda name: _model(name, dataset)),
        dataset=dataset.name,
        images=default_images if images is None else images,
        effort=effort,
        norms=norms,
        certify=certify,
        batch_size=batch_size,
        device=_checked("device", given["device"], _device),
        seed=_checked("seed", given["seed"], _natural),
        thresholds=_checked("thresholds", given["thresholds"], lambda text: _thresholds(text, config, model)),
        results=_checked("results", given["results"], lambda text: _results(text, config)),
        fresh=bool(given["fresh"]),
        # A worker is told when the run began: what another worker has measured since then belongs to this run.
        started=worker_input(config)["robustness_started"] if is_worker(config) else time.time(),
    )


def _given(config: pytest.Config, option: Option) -> Any:
    value = config.getoption(f"--{option.name}")
    return config.getini(option.ini) if value is None else value


def _checked(name: str, text: str, check: Callable[[str], Value]) -> Value:
    try:
        return check(text)
    except ValueError as error:
        raise pytest.UsageError(f"--{name}: {error}") from error


def _dataset(name: str) -> DatasetCard:
    if name not in DATASETS:
        raise ValueError(f"got {name!r}, {closest(name, DATASETS)}")
    return DATASETS[name]


def _model(name: str, dataset: DatasetCard) -> str:
    known = [card.name for card in MODELS.values() if card.dataset == dataset.name]
    if name not in known:
        raise ValueError(f"got {name!r}, {closest(name, known)}")
    MODELS[name].check_weights()
    return name


def _choice(word: str, known: Sequence[str]) -> str:
    if word not in known:
        raise ValueError(f"got {word!r}, {closest(word, known)}")
    return word


def _natural(text: str) -> int:
    if not re.fullmatch(r"\d{1,18}", text.strip(), re.ASCII):
        raise ValueError(f"got {text!r}, expected a whole number, 0 or more")
    return int(text)


def _positive(text: str) -> int:
    if not re.fullmatch(r"\d{1,18}", text.strip(), re.ASCII) or not int(text):
        raise ValueError(f"got {text!r}, expected a whole number, 1 or more")
    return int(text)


def _images(text: str, dataset: DatasetCard) -> int:
    count = _positive(text)
    if count > dataset.test_images:
        raise ValueError(f"got {count}, expected at most {dataset.test_images}, the test split of {dataset.name!r}")
    return count


def _norms(text: str) -> tuple[str, ...]:
    norms = [norm.strip() for norm in text.split(",")]
    for norm in norms:
        if norm not in NORMS:
            raise ValueError(f"got {norm!r}, {closest(norm, NORMS)}")
    return tuple(dict.fromkeys(norms))


def _device(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", text):
        raise ValueError(f"got {text!r}, expected auto, cpu, cuda or cuda:N")
    gpus = visible_gpus() if text.startswith("cuda") else ()
    number = int(text.partition(":")[2] or 0)
    if text.startswith("cuda") and number >= len(gpus):
        raise ValueError(f"got {text!r}, but {len(gpus)} GPUs are visible: expected cpu, auto, or a smaller number")
    return text


def _thresholds(text: str, config: pytest.Config, model: str) -> Thresholds:
    return load_thresholds(_path("thresholds", text, config) if text else None, model)


def _results(text: str, config: pytest.Config) -> Path:
    path = _path("results", text, config)
    existing = next(place for place in (path, *path.parents) if place.exists())
    if not existing.is_dir():
        where = "which is a file" if existing == path else f"but {existing.name} is a file"
        raise ValueError(f"got {text!r}, {where}, expected a folder")
    if not os.access(existing, os.W_OK):
        raise ValueError(f"got {text!r}, which cannot be written to, expected a folder of your own")
    return path


def _path(name: str, text: str, config: pytest.Config) -> Path:
    """A path of the command line starts where the user is, one of the ini file where that file is."""
    on_command_line = config.getoption(f"--{name}") is not None
    return (config.invocation_params.dir if on_command_line else config.rootpath) / Path(text).expanduser()


def describe(run: Run) -> Sequence[str]:
    """The run in lines for the header of the terminal."""
    comparison = "" if run.model == run.against else f" against {run.against}"
    certified = {"auto": "", "off": ", nothing certified", "require": ", all certified"}[run.certify]
    budget = "quick: not for a release" if run.quick else f"{run.effort} effort"
    subject = f"{run.model}{comparison} on {run.dataset}, {run.images} images"
    return [
        f"robustness: {subject}, {', '.join(run.norms)}, {budget}{certified}",
        (
            f"robustness: seed {run.seed}, device {run.device}, thresholds from {', '.join(run.thresholds.files)}, "
            f"results in {run.results}"
        ),
    ]


def pytest_report_header(config: pytest.Config) -> Sequence[str]:
    """What is run, at the top of the terminal."""
    return describe(config.stash[RUN])
