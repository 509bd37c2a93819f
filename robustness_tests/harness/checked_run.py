"""Turns the options into a checked `Run`. An error is one line, reported before anything is measured.

Imports no torch: a separate process checks models and data.
"""

import contextlib
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from platformdirs import user_cache_path

from robustness_tests.harness import option_values
from robustness_tests.harness.baseline import Baseline, check_baseline, load_baseline
from robustness_tests.harness.gpus import visible_gpus
from robustness_tests.harness.looks import LATER_LOOK, LIMIT, Looks, planned_sizes
from robustness_tests.harness.options import CERTIFY, EFFORTS, OPTIONS, PRECISIONS, SAMPLES, given_value
from robustness_tests.harness.run import (
    CERTIFIED_NORMS,
    CHECKED_SUBJECTS,
    GPU_BATCH_SIZE,
    RUN,
    Options,
    Run,
    Shard,
    is_worker,
    worker_input,
)
from robustness_tests.harness.thresholds import Thresholds, load_thresholds
from robustness_tests.subjects.catalog import DATASETS
from robustness_tests.subjects.image_size import image_size
from robustness_tests.subjects.sources import Source, dataset_source, model_source
from robustness_tests.subjects.subject_check import CheckedSubjects, WrongSubjectError, check_subjects

SELF_CHECK = {"model": "standard", "against": "standard", "deployed": "", "dataset": "digits", "images": "4"}
KEPT_BY_SELF_CHECK = ("device", "results", "data-dir")
"""`--self-check` is about no model of the user's: of the options that are given, it takes only these."""

Value = TypeVar("Value")
Given = TypeVar("Given")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Check the options before anything else happens."""
    config.stash[RUN] = run_from(config)


def run_from(config: pytest.Config) -> Run:
    """The run that the options ask for.

    Raises:
        pytest.UsageError: for the first wrong value, or a model or dataset that cannot be tested. The message states
            the given value, the expected ones and the closest match.
    """
    given = {option.name: given_value(config, option) for option in OPTIONS}
    if config.getoption("robustness_self_check"):
        usual = {option.name: False if option.is_flag else option.default for option in OPTIONS}
        given = usual | {name: given[name] for name in KEPT_BY_SELF_CHECK} | SELF_CHECK
    options = checked_options(given, config)
    seen = _inspected(options, config)
    config.stash[CHECKED_SUBJECTS] = seen
    limit = options.looks.sizes[-1] if options.looks else options.images
    if given["images"] not in ("", "auto") and limit > seen.test_images:
        raise pytest.UsageError(
            f"--images: got {given['images']}, expected at most {seen.test_images}, the test split of "
            f"{options.dataset!r}"
        )
    looks = options.looks.within(seen.test_images) if options.looks else None
    batch_size = _checked("batch-size", given["batch-size"], option_values.positive) if given["batch-size"] else None
    run = Run(
        **{
            **vars(options),
            **vars(seen),
            "images": min(options.images, seen.test_images),
            "looks": looks,
            "thresholds": looks.spent(options.thresholds) if looks else options.thresholds,
            "clever_radius": {**seen.clever_radius, **options.clever_radius},
            "batch_sizes": _batch_sizes(batch_size, options.device, seen),
        }
    )
    if run.baseline is not None:
        _checked("baseline", run.baseline, lambda baseline: _comparable(baseline, run))
    if not is_worker(config):
        _check_files(run, given, config)
    return run


def checked_options(given: Mapping[str, Any], config: pytest.Config) -> Options:
    """Check each option by itself, without a look at models and data."""
    effort = _effort(given)
    norms = _checked("norms", given["norms"], option_values.norms)
    dataset = _checked("dataset", given["dataset"], lambda text: dataset_source(text, _folder("dataset", config)))
    model = _checked("model", given["model"], lambda text: model_source(text, dataset, _folder("model", config)))
    against = _reference(given["against"], model, dataset, config)
    deployed = _deployed(given["deployed"], (model, against), dataset, config)
    looks = _looks(given, _default_images(dataset, effort), config)
    results = _checked("results", given["results"], lambda text: _writable_folder("results", text, config))
    return Options(
        model=model.name,
        against=against.name,
        deployed=deployed.name if deployed else "",
        dataset=dataset.name,
        sources={source.name: source for source in (model, against, deployed) if source},
        dataset_source=dataset,
        data_dir=_checked("data-dir", given["data-dir"], lambda text: _data_dir(text, config)),
        images=looks.images if looks else int(given["images"] or _default_images(dataset, effort)),
        looks=looks,
        sampling=_checked("sample", given["sample"], lambda word: option_values.choice(word, SAMPLES)),
        image_size=_checked("image-size", given["image-size"], image_size) if given["image-size"] else None,
        clever_radius=_checked("clever-radius", given["clever-radius"], option_values.radii),
        effort=effort,
        norms=norms,
        precision=_checked("precision", given["precision"], lambda word: option_values.choice(word, PRECISIONS)),
        certify=_certify(given["certify"], norms),
        device=_checked("device", given["device"], option_values.device),
        shard=_shard(given["shard"], looks),
        timeout_per_batch=_checked("timeout-per-batch", given["timeout-per-batch"], option_values.seconds),
        seed=_checked("seed", given["seed"], option_values.natural),
        thresholds=_checked(
            "thresholds", given["thresholds"], lambda text: _thresholds(text, config, model.name, dataset.name)
        ),
        results=results,
        store=_checked("store", given["store"], lambda text: _writable_folder("store", text, config))
        if given["store"]
        else results / "measurements",
        summary=_checked("summary", given["summary"], lambda text: _file("summary", text, config)),
        baseline=_checked("baseline", given["baseline"], lambda text: _baseline(text, config)),
        fresh=bool(given["fresh"]),
        # Workers get the start time from the controller: batches that others measured since then belong to this run.
        started=_started(config),
    )


def _started(config: pytest.Config) -> float:
    if is_worker(config):
        return float(worker_input(config)["robustness_started"])
    later = config.stash.get(LATER_LOOK, None)
    return later.started if later else time.time()


def _default_images(dataset: Source, effort: str) -> int:
    if effort == "quick":
        return 20
    return DATASETS[dataset.name].images if dataset.kind == "bundled" else 100


def _looks(given: Mapping[str, Any], first: int, config: pytest.Config) -> Looks | None:
    """The plan of `--images auto`. Its numbers of images are whole batches, so that no look measures one again."""
    limit = _checked("images", given["images"], option_values.limit) if given["images"] else None
    if limit is None:
        return None
    if is_worker(config):
        return Looks(**worker_input(config)["robustness_looks"])
    if config.getoption("maxfail", 0):
        raise pytest.UsageError(
            f"--images: got {given['images']!r} with -x or --maxfail, expected neither: what is open may fail "
            "until more images decide it"
        )
    later = config.stash.get(LATER_LOOK, None)
    if later is not None:
        return later.looks
    batch_size = _checked("batch-size", given["batch-size"] or "20", option_values.positive)
    if not given["batch-size"] and _on_gpu(_checked("device", given["device"], option_values.device)):
        batch_size = GPU_BATCH_SIZE
    return Looks(planned_sizes(math.ceil(first / batch_size) * batch_size, limit or LIMIT))


def _shard(text: str, looks: Looks | None) -> Shard | None:
    shard = _checked("shard", text, option_values.shard)
    if shard and looks:
        raise pytest.UsageError(
            f"--shard: got {text!r} with --images auto, expected a number of images: how many it takes is not known "
            "before they are measured"
        )
    return shard


def _certify(text: str, norms: tuple[str, ...]) -> str:
    certify = _checked("certify", text, lambda word: option_values.choice(word, CERTIFY))
    if certify == "require" and not set(norms) & set(CERTIFIED_NORMS):
        raise pytest.UsageError(
            f"--certify: got 'require' with --norms {','.join(norms)}, expected linf or l2 among them"
        )
    return certify


def _data_dir(text: str, config: pytest.Config) -> Path:
    return _path("data-dir", text, config) if text else user_cache_path("robustness-gate")


def _check_files(run: Run, given: Mapping[str, Any], config: pytest.Config) -> None:
    """Refuse to overwrite the baseline, or to write two files to one path."""
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
        sampling=run.sampling,
        norms=run.norms,
        image_digests=run.image_digests,
        clever_radius=run.clever_radius,
    )


def _inspected(run: Options, config: pytest.Config) -> CheckedSubjects:
    if is_worker(config):
        return CheckedSubjects.from_json(worker_input(config)["robustness_subjects"])
    options = {"model": run.model, "against": run.against, "deployed": run.deployed}
    capture = config.pluginmanager.getplugin("capturemanager")
    try:
        # Without capture: a download shows its progress on a terminal.
        with capture.global_and_fixture_disabled() if capture else contextlib.nullcontext():
            return check_subjects(
                {option: run.sources[name] for option, name in options.items() if name},
                run.dataset_source,
                images=run.images,
                device=run.device,
                data_dir=run.data_dir,
                size=run.image_size,
                sampling=run.sampling,
                seed=run.seed,
            )
    except WrongSubjectError as error:
        raise pytest.UsageError(f"--{error.option}: {error}") from error


def _batch_sizes(given: int | None, device: str, seen: CheckedSubjects) -> Mapping[str, int]:
    fixed = given or (GPU_BATCH_SIZE if _on_gpu(device) else None)
    return {name: fixed or size for name, size in seen.batch_sizes.items()}


def _on_gpu(device: str) -> bool:
    return device.startswith("cuda") or (device == "auto" and bool(visible_gpus()))


def _effort(given: Mapping[str, Any]) -> str:
    quick = bool(given["quick"])
    if not given["effort"]:
        return "quick" if quick else "default"
    effort = _checked("effort", given["effort"], lambda word: option_values.choice(word, EFFORTS))
    if quick and effort != "quick":
        raise pytest.UsageError(f"--effort: got {effort!r} together with --quick, expected one of the two")
    return effort


def _reference(text: str, model: Source, dataset: Source, config: pytest.Config) -> Source:
    """The reference. If it has the candidate's name but is another model, `.reference` is appended to its name."""
    if not text:
        pair = dataset.kind == "bundled" or model.name == "robust"
        text = "standard" if pair and dataset.kind in ("bundled", "cifar10", "cifar10-c") else ""
    if not text:
        return model
    against = _checked("against", text, lambda word: model_source(word, dataset, _folder("against", config)))
    same = (against.kind, against.location, against.attribute) == (model.kind, model.location, model.attribute)
    return replace(against, name=f"{against.name}.reference") if against.name == model.name and not same else against


def _deployed(text: str, others: tuple[Source, ...], dataset: Source, config: pytest.Config) -> Source | None:
    """The form of the candidate that ships; `.deployed` is appended to a name that another model has."""
    if not text:
        return None
    source = _checked("deployed", text, lambda word: model_source(word, dataset, _folder("deployed", config)))
    taken = source.name in {other.name for other in others}
    return replace(source, name=f"{source.name}.deployed") if taken and source.kind != "bundled" else source


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
    """The path of an output file, in an existing folder."""
    if not text:
        return None
    path = _path(name, text, config)
    if path.is_dir():
        raise ValueError(f"got {text!r}, which is a folder, expected a file")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise ValueError(f"got {text!r}, expected a file in a folder that is there and can be written to")
    return path


def _writable_folder(name: str, text: str, config: pytest.Config) -> Path:
    path = _path(name, text, config)
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
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
    """Where a relative path starts: at the invocation folder on the command line, at the rootdir in the ini file."""
    on_command_line = config.getoption(f"robustness_{name.replace('-', '_')}") is not None
    return config.invocation_params.dir if on_command_line else config.rootpath
