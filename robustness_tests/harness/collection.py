"""Which tests there are: ids from options and integers only, in an order that keeps a batch on one worker."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import robustness_tests
from robustness_tests.harness.run import RUN, Run

METRICS = (
    "adversarial_distance",
    "clever",
    "anchored_clever",
    "certified_distance",
    "exact_distance",
    "noise_accuracy",
)
"""The fixtures that measure; a test that asks for one needs batches of it."""

PROVING = ("certified_distance", "exact_distance")
"""Those that are for the certified images and norms of a run only."""

EXACT_NORMS = ("linf",)
"""Those of `metrics.exact_distance`."""


BASELINE_TESTS = "test_baseline.py"
"""The file whose tests compare with the last release."""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Without a baseline there is nothing to compare with, and nobody who has to be told so in each report."""
    ours = collection_path.parent == Path(robustness_tests.__file__).parent
    return True if ours and collection_path.name == BASELINE_TESTS and config.stash[RUN].baseline is None else None


def measures(fixtures: Iterable[str]) -> bool:
    """Whether a test with these fixtures asks for a model or a metric, directly or not."""
    return "measurements" in fixtures


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give values to the arguments `model`, `norm`, `epsilon` and `image` of a test, in this order in its id.

    A test that asks for `candidate` and not for `model` has the candidate's name in its id all the same.
    """
    if not measures(metafunc.fixturenames):
        return  # a user's own test, whose arguments of these names are its own
    run = metafunc.config.stash[RUN]
    names, rows = _parameters(run, metafunc)
    if names and not rows:
        # Instead of pytest's own words about an empty parameter set.
        reason = _why_there_is_nothing(run, names)
        nothing = pytest.param(*[None] * len(names), marks=pytest.mark.skip(reason=reason))
        metafunc.parametrize(names, [nothing], ids=[run.dataset])
    elif names:
        ids = ["-".join(_identity(run, metafunc, names, row)) for row in rows]
        metafunc.parametrize(names, rows, ids=ids)


def _why_there_is_nothing(run: Run, names: list[str]) -> str:
    """Why a test has nothing to be about: what it is parametrised with is empty."""
    if "epsilon" in names and run.certify != "off":
        return f"no threshold file states certified_accuracy.{run.dataset}"
    return "nothing is certified: --certify off, or a norm without bounds"


def _parameters(run: Run, metafunc: pytest.Metafunc) -> tuple[list[str], list[tuple[object, ...]]]:
    taken = {name for mark in metafunc.definition.iter_markers("parametrize") for name in _names_of(mark)}
    wanted: list[str] = [
        name
        for name in ("model_name", "norm", "epsilon", "image")
        if name in metafunc.fixturenames and name not in taken
    ]
    rows: list[tuple[object, ...]] = [()]
    for name in wanted:
        rows = [
            (*row, value)
            for row in rows
            for value in _values(run, metafunc.fixturenames, name, dict(zip(wanted, row, strict=False)))
        ]
    return wanted, rows


def _names_of(mark: pytest.Mark) -> Iterable[str]:
    names = mark.args[0]
    return [name.strip() for name in names.split(",")] if isinstance(names, str) else names


def _values(run: Run, fixtures: Iterable[str], name: str, so_far: dict[str, object]) -> Iterable[object]:
    proving = any(fixture in fixtures for fixture in PROVING)
    if name == "model_name":
        return run.models
    if name == "norm":
        return norms_of(run, fixtures)
    if name == "epsilon":
        if "noise_accuracy" in fixtures:
            return run.noise_epsilons(str(so_far["norm"]))
        if not proving:
            return run.robust_epsilons(str(so_far["norm"]))
        return run.thresholds.epsilons(run.dataset, str(so_far["norm"]), "certified_accuracy")
    return range(images_of(run, fixtures))


def norms_of(run: Run, fixtures: Iterable[str]) -> tuple[str, ...]:
    """The norms of the run that a test with these fixtures can be about."""
    return run.certified_norms if any(fixture in fixtures for fixture in PROVING) else run.norms


def images_of(run: Run, fixtures: Iterable[str]) -> int:
    """How many images a test with these fixtures is about."""
    return run.certified_images if any(fixture in fixtures for fixture in PROVING) else run.images


def _identity(run: Run, metafunc: pytest.Metafunc, names: list[str], row: tuple[object, ...]) -> Iterator[str]:
    values = dict(zip(names, row, strict=True))
    if "model_name" in values:
        yield str(values.pop("model_name"))
    elif "candidate" in metafunc.fixturenames:
        yield run.model
        if "reference" in metafunc.fixturenames and run.against != run.model:
            yield run.against
    yield run.dataset
    for name, value in values.items():
        yield f"{value:05d}" if name == "image" else str(value)


def _callspec(item: pytest.Item) -> dict[str, object]:
    callspec = getattr(item, "callspec", None)
    params = callspec.params if callspec is not None else {}
    # Where there is nothing to run for, the values are None and the test is skipped.
    return {name: value for name, value in params.items() if value is not None}


def subject_of(item: pytest.Item, run: Run) -> dict[str, object]:
    """What a test is about, for its record: plain values; empty if it is not about a model."""
    params = _callspec(item)
    fixtures = getattr(item, "fixturenames", ())
    if not measures(fixtures):
        return {}
    about: dict[str, object] = {"property": getattr(item, "originalname", item.name)}
    if "model_name" in params:
        about["model"] = params["model_name"]
    elif "candidate" in fixtures:
        about["model"] = run.model
    if "reference" in fixtures:
        about["reference"] = run.against
    for name in ("norm", "epsilon", "image"):
        if name in params:
            value = params[name]
            # A user may parametrise with anything; only plain values get from a worker to the controller.
            about[name] = value if isinstance(value, int | float | str) else str(value)
    return about


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests about images first, batch by batch; then those about models, which find all batches measured."""
    run = config.stash[RUN]
    order = {name: number for number, name in enumerate(run.models)}

    def place(item: pytest.Item) -> tuple[bool, int, int]:
        about = subject_of(item, run)
        image, model = about.get("image"), str(about.get("model"))
        if not isinstance(image, int):
            return (True, 0, 0)
        return (False, order.get(model, len(order)), image // run.batch_sizes.get(model, 1))

    items.sort(key=place)


def batches_of(items: Iterable[pytest.Item], run: Run) -> set[tuple[str, str, str, int]]:
    """The batches that tests need: (metric, model, norm, first image)."""
    needed: set[tuple[str, str, str, int]] = set()
    for item in items:
        metrics = {name for name in METRICS if name in getattr(item, "fixturenames", ())}
        if not metrics:
            continue
        about = subject_of(item, run)
        fixtures = item.fixturenames  # type: ignore[attr-defined]  # it has metrics among them
        models = {str(about[role]) for role in ("model", "reference") if role in about} or set(run.models)
        norms = [str(about["norm"])] if "norm" in about else norms_of(run, fixtures)
        image = about.get("image")
        for model in models:
            batch = run.batch_sizes[model]
            firsts = [image // batch * batch] if isinstance(image, int) else range(0, images_of(run, fixtures), batch)
            every = {(metric, model, norm, first) for metric in metrics for norm in norms for first in firsts}
            needed |= {one for one in every if one[0] != "exact_distance" or one[2] in EXACT_NORMS}
    return needed
