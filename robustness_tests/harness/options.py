"""Options of the command line, each with a twin in the ini file, and their checks. Imports no torch."""

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from platformdirs import user_cache_path

import robustness_tests
from robustness_tests.harness import option_values
from robustness_tests.harness.baseline import Baseline, check_baseline, load_baseline
from robustness_tests.harness.gpus import visible_gpus
from robustness_tests.harness.run import (
    CERTIFIED_NORMS,
    GPU_BATCH_SIZE,
    IN_USE,
    INSPECTION,
    RUN,
    Run,
    is_worker,
    worker_input,
)
from robustness_tests.harness.thresholds import Thresholds, load_thresholds
from robustness_tests.subjects.catalog import MODELS, NORMS
from robustness_tests.subjects.inspection import Inspection, WrongSubjectError, inspect
from robustness_tests.subjects.sources import DATASET_FORMS, MODEL_FORMS, Source, dataset_source, model_source

Value = TypeVar("Value")
Given = TypeVar("Given")

SUITE = Path(robustness_tests.__file__).parent

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
    Option("model", "robust", f"Model under release: {', '.join((*MODELS, *MODEL_FORMS))}", "MODEL"),
    Option(
        "against",
        "",
        "Model that it has to beat; the same as --model: no comparison (default: standard on digits, and for robust on "
        "cifar10; else no comparison)",
        "MODEL",
    ),
    Option("dataset", "digits", f"Dataset: digits, {', '.join(DATASET_FORMS)}", "DATASET"),
    Option(
        "data-dir",
        "",
        "Folder of datasets and checkpoints that have names; what is missing there is downloaded to it (default: the "
        "user's cache)",
        "DIR",
    ),
    Option("images", "", "Number of test images, from the first on (default: 100, or 20 with --quick)", "N"),
    Option("effort", "", f"Budget for each image: {', '.join(EFFORTS)} (default: default)", "EFFORT"),
    Option("quick", "", "The quick effort and few images: for a look, not for a release"),
    Option("norms", "linf,l2", f"Norms of the perturbations, separated by commas: {', '.join(NORMS)}", "NORMS"),
    Option(
        "certify",
        "auto",
        "Prove lower bounds: auto (the first 20 images, all with --effort thorough; skipped where there are no "
        "bounds), off, or require (every image, and it is a failure where there are none)",
        "WHETHER",
    ),
    Option(
        "clever-radius",
        "",
        "Radius of CLEVER's ball for norms: linf=0.05,l2=1 (default: of the dataset, or three times the median "
        "distance at which the models would be fooled if they were linear, rounded up)",
        "RADII",
    ),
    Option(
        "batch-size",
        "",
        "Images measured together; CLEVER puts five samples of each through the model at once "
        "(default: on a CPU 20, and fewer for large models; on a GPU 100)",
        "N",
    ),
    Option("device", "auto", "auto, cpu, cuda or cuda:N; auto takes a GPU if there is one", "DEVICE"),
    Option("seed", "0", "Seed of everything that is random", "N"),
    Option("thresholds", "", "File that replaces values of robustness_tests/thresholds.toml", "FILE"),
    Option(
        "baseline",
        "",
        "results.json of the last release: no median, share or robust accuracy may be lower by more than the "
        "thresholds say",
        "FILE",
    ),
    Option("results", "robustness-results", "Folder of the report, results.json and the measurements", "DIR"),
    Option("summary", "", "Write a summary in Markdown to this file, too", "FILE"),
    Option("fresh", "", "Measure everything anew, whatever is stored"),
]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register every option and its twin."""
    group, taken = parser.getgroup("robustness", "robustness of image classifiers"), _names_of_options(parser)
    for option in OPTIONS:
        # No defaults here: what is not given is looked up in the ini file.
        settings: dict[str, Any] = {"dest": option.ini, "default": None, "help": option.help}
        if option.is_flag:
            settings["action"] = "store_true"
            parser.addini(option.ini, option.help, type="bool", default=None)
        else:
            settings["metavar"] = option.metavar
            settings["help"] += f" (default: {option.default})" if option.default else ""
            parser.addini(option.ini, option.help, type="string", default=None)
        # Another plugin, or the conftest of the user, may have an option of the short name: it keeps it.
        names = [name for name in (f"--{option.name}", f"--robustness-{option.name}") if name not in taken]
        group.addoption(*names, **settings)


def _names_of_options(parser: pytest.Parser) -> set[str]:
    """The names of all options so far. To try a name and see would do harm: pytest 9.0 gives it away all the same."""
    return {name for group in parser._groups for option in group.options for name in option.names()}  # noqa: SLF001


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Check the options before anything else happens."""
    config.stash[IN_USE] = in_use(config)
    config.stash[RUN] = run_from(config)


def in_use(config: pytest.Config) -> bool:
    """Whether this run is about robustness: other runs, where the suite is installed, are left as they are.

    It is, if an option is given, on the command line or in the ini file, if the tests of the suite are named, or in a
    checkout of it.
    """
    given = any(
        value is not None for option in OPTIONS for value in (config.getoption(option.ini), config.getini(option.ini))
    )
    if given or config.rootpath == SUITE.parent:
        return True
    return any(SUITE.name in str(argument) for argument in config.invocation_params.args)


def run_from(config: pytest.Config) -> Run:
    """The run that the options ask for.

    Raises:
        pytest.UsageError: for the first value that is wrong, with what was given, what is known, and the closest match;
            a model or dataset that cannot be tested is one, too.
    """
    given = {option.name: _given(config, option) for option in OPTIONS}
    effort = _effort(given)
    norms = _checked("norms", given["norms"], option_values.norms)
    certify = _checked("certify", given["certify"], lambda word: option_values.choice(word, CERTIFY))
    if certify == "require" and not set(norms) & set(CERTIFIED_NORMS):
        raise pytest.UsageError(
            f"--certify: got 'require' with --norms {','.join(norms)}, expected linf or l2 among them"
        )
    images = _checked("images", given["images"], option_values.positive) if given["images"] else None
    batch_size = _checked("batch-size", given["batch-size"], option_values.positive) if given["batch-size"] else None
    radii = _checked("clever-radius", given["clever-radius"], option_values.radii)
    device = _checked("device", given["device"], option_values.device)
    dataset = _checked("dataset", given["dataset"], lambda text: dataset_source(text, _folder("dataset", config)))
    model = _checked("model", given["model"], lambda text: model_source(text, dataset, _folder("model", config)))
    against = _reference(given["against"], model, dataset, config)
    data_dir = user_cache_path("robustness-gate")
    if given["data-dir"]:
        data_dir = _checked("data-dir", given["data-dir"], lambda text: _path("data-dir", text, config))
    default_images = 20 if effort == "quick" else 100
    run = Run(
        model=model.name,
        against=against.name,
        dataset=dataset.name,
        sources={source.name: source for source in (model, against)},
        dataset_source=dataset,
        data_dir=data_dir,
        test_images=0,
        values=0,
        images=images or default_images,
        clever_radius={},
        effort=effort,
        norms=norms,
        certify=certify,
        batch_sizes={},
        digests={},
        remarks=(),
        device=device,
        seed=_checked("seed", given["seed"], option_values.natural),
        thresholds=_checked(
            "thresholds", given["thresholds"], lambda text: _thresholds(text, config, model.name, dataset.name)
        ),
        results=_checked("results", given["results"], lambda text: _results(text, config)),
        summary=_checked("summary", given["summary"], lambda text: _file("summary", text, config)),
        baseline=_checked("baseline", given["baseline"], lambda text: _baseline(text, config)),
        class_names=(),
        image_digests=(),
        fresh=bool(given["fresh"]),
        # A worker is told when the run began: what another worker has measured since then belongs to this run.
        started=worker_input(config)["robustness_started"] if is_worker(config) else time.time(),
    )
    seen = _inspected(run, config)
    config.stash[INSPECTION] = seen
    if images is not None and images > seen.test_images:
        raise pytest.UsageError(
            f"--images: got {images}, expected at most {seen.test_images}, the test split of {dataset.name!r}"
        )
    run = replace(
        run,
        test_images=seen.test_images,
        values=seen.values,
        images=min(run.images, seen.test_images),
        clever_radius={**seen.clever_radius, **radii},
        batch_sizes=_batch_sizes(batch_size, device, seen),
        digests=seen.digests,
        remarks=seen.remarks,
        class_names=seen.class_names,
        image_digests=seen.image_digests,
    )
    if run.baseline is not None:
        _checked("baseline", run.baseline, lambda baseline: _comparable(baseline, run))
    if not is_worker(config):
        _check_files(run, given, config)
    return run


def _check_files(run: Run, given: Mapping[str, Any], config: pytest.Config) -> None:
    """Refuse to write over what is read, or twice into one file."""
    written = {name: (run.results / name).resolve() for name in ("results.json", "report.html")}
    baseline = _path("baseline", given["baseline"], config).resolve() if given["baseline"] else None
    if baseline == written["results.json"]:
        raise pytest.UsageError(
            f"--baseline: got {given['baseline']!r}, which this run writes over, expected a copy of it elsewhere"
        )
    for name, path in {**written, "baseline": baseline}.items():
        if run.summary is not None and run.summary.resolve() == path:
            raise pytest.UsageError(
                f"--summary: got {given['summary']!r}, the {name} of this run, expected another file"
            )


def _comparable(baseline: Baseline, run: Run) -> None:
    check_baseline(
        baseline,
        dataset=run.dataset,
        effort=run.effort,
        seed=run.seed,
        norms=run.norms,
        image_digests=run.image_digests,
        clever_radius=run.clever_radius,
    )


def _inspected(run: Run, config: pytest.Config) -> Inspection:
    if is_worker(config):
        return Inspection.from_json(worker_input(config)["robustness_inspection"])
    options = {"model": run.model, "against": run.against}
    capture = config.pluginmanager.getplugin("capturemanager")
    try:
        # Without capture: a download shows its progress on a terminal.
        with capture.global_and_fixture_disabled() if capture else contextlib.nullcontext():
            return inspect(
                {option: run.sources[name] for option, name in options.items()},
                run.dataset_source,
                images=run.images,
                device=run.device,
                data_dir=run.data_dir,
            )
    except WrongSubjectError as error:
        raise pytest.UsageError(f"--{error.option}: {error}") from error


def _batch_sizes(given: int | None, device: str, seen: Inspection) -> Mapping[str, int]:
    on_gpu = device.startswith("cuda") or (device == "auto" and visible_gpus())
    fixed = given or (GPU_BATCH_SIZE if on_gpu else None)
    return {name: fixed or size for name, size in seen.batch_sizes.items()}


def _effort(given: Mapping[str, Any]) -> str:
    quick = bool(given["quick"])
    if not given["effort"]:
        return "quick" if quick else "default"
    effort = _checked("effort", given["effort"], lambda word: option_values.choice(word, EFFORTS))
    if quick and effort != "quick":
        raise pytest.UsageError(f"--effort: got {effort!r} together with --quick, expected one of the two")
    return effort


def _reference(text: str, model: Source, dataset: Source, config: pytest.Config) -> Source:
    """The reference; two different models that would have one name get two."""
    if not text:
        pair = dataset.kind == "bundled" or model.name == "robust"
        text = "standard" if pair and dataset.kind in ("bundled", "cifar10", "cifar10-c") else ""
    if not text:
        return model
    against = _checked("against", text, lambda word: model_source(word, dataset, _folder("against", config)))
    same = (against.kind, against.place, against.attribute) == (model.kind, model.place, model.attribute)
    return replace(against, name=f"{against.name}.reference") if against.name == model.name and not same else against


def _given(config: pytest.Config, option: Option) -> Any:
    for value in (config.getoption(option.ini), config.getini(option.ini)):
        if value is not None:
            return value
    return False if option.is_flag else option.default


def _checked(name: str, given: Given, check: Callable[[Given], Value]) -> Value:
    try:
        return check(given)
    except ValueError as error:
        raise pytest.UsageError(f"--{name}: {error}") from error


def _thresholds(text: str, config: pytest.Config, model: str, dataset: str) -> Thresholds:
    return load_thresholds(_path("thresholds", text, config) if text else None, model, dataset)


def _baseline(text: str, config: pytest.Config) -> Baseline | None:
    return load_baseline(_path("baseline", text, config), text) if text else None


def _file(name: str, text: str, config: pytest.Config) -> Path | None:
    """A file to be written, in a folder that is there."""
    if not text:
        return None
    path = _path(name, text, config)
    if path.is_dir():
        raise ValueError(f"got {text!r}, which is a folder, expected a file")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise ValueError(f"got {text!r}, expected a file in a folder that is there and can be written to")
    return path


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
    try:
        return _folder(name, config) / Path(text).expanduser()
    except RuntimeError as error:  # no such user
        raise ValueError(f"got {text!r}, which is no path: {error}") from error


def _folder(name: str, config: pytest.Config) -> Path:
    """A path of the command line starts where the user is, one of the ini file where that file is."""
    on_command_line = config.getoption(f"robustness_{name.replace('-', '_')}") is not None
    return config.invocation_params.dir if on_command_line else config.rootpath


def describe(run: Run) -> Sequence[str]:
    """The run in lines for the header of the terminal."""
    comparison = "" if run.model == run.against else f" against {named(run, run.against)}"
    certified = {"auto": "", "off": ", nothing certified", "require": ", all certified"}[run.certify]
    budget = "quick: not for a release" if run.quick else f"{run.effort} effort"
    subject = f"{named(run, run.model)}{comparison} on {named_dataset(run)}, {run.images} images"
    radii = ", ".join(f"{norm} {run.clever_radius[norm]:g}" for norm in run.norms)
    unused, baseline = run.thresholds.others, run.baseline
    last = f"{baseline.model}, {baseline.finished}, from {baseline.file}" if baseline else ""
    return [
        f"robustness: {subject}, {', '.join(run.norms)}, {budget}{certified}",
        (
            f"robustness: seed {run.seed}, device {run.device}, CLEVER's radius {radii}, "
            f"thresholds from {', '.join(run.thresholds.files)}, results in {run.results}"
        ),
        *([f"robustness: compared with the last release, {last}"] if last else []),
        *([f"robustness: thresholds for others, not used: {', '.join(unused)}"] if unused else []),
        *(f"robustness: {remark}" for remark in run.remarks),
    ]


def named(run: Run, model: str) -> str:
    """The name of a model, and where it comes from unless the name says so."""
    text = run.sources[model].text
    return model if text == model else f"{model} ({text})"


def named_dataset(run: Run) -> str:
    """The name of the dataset, and where it comes from unless the name says so."""
    text = run.dataset_source.text
    return run.dataset if text == run.dataset else f"{run.dataset} ({text})"


def pytest_report_header(config: pytest.Config) -> Sequence[str]:
    """What is run, at the top of the terminal."""
    return describe(config.stash[RUN]) if config.stash[IN_USE] else []
