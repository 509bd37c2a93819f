"""Collection: ids made of options and integers only, and an order that keeps the tests of a batch on one worker."""

import inspect
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import pytest

import robustness_tests
from robustness_tests.harness.metric import METRICS, metrics_among
from robustness_tests.harness.run import RUN, Run
from robustness_tests.subjects.catalog import closest

CONCERNS = ("model", "release", "numbers", "suite")
"""What the failure of a property may be about; reports/rows.py says it in words."""


def pytest_configure(config: pytest.Config) -> None:
    """Make the mark known."""
    config.addinivalue_line(
        "markers",
        "about(concern, feeds=None): what a failure of this property is about: 'model', 'release', 'numbers' or "
        "'suite'; and the part of the report that its numbers feed, if any. See docs/extending.md.",
    )


def pytest_pycollect_makeitem(collector: pytest.Collector, name: str, obj: object) -> list[pytest.Item] | None:
    """Do not collect the suite's tests of what is not given: every report would list them as skipped."""
    ours = collector.path.parent == Path(robustness_tests.__file__).parent
    if not ours or not name.startswith("test_") or not callable(obj):
        return None
    return [] if collector.config.stash[RUN].not_given & set(inspect.signature(obj).parameters) else None


def measures(fixtures: Iterable[str]) -> bool:
    """Whether a test with these fixtures asks for a model or a metric, directly or not."""
    return "measurements" in fixtures


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize the arguments `model`, `norm`, `epsilon` and `image` of a test; its id has them in this order.

    If a test asks for `candidate` instead of `model`, its id starts with the candidate's name.
    """
    if not measures(metafunc.fixturenames):
        return  # a user's own test, whose arguments of these names are its own
    run = metafunc.config.stash[RUN]
    names, rows = _parameters(run, metafunc)
    if names and not rows:
        # Replaces pytest's own message about an empty parameter set.
        reason = _why_there_is_nothing(run, metafunc.fixturenames, names)
        nothing = pytest.param(*[None] * len(names), marks=pytest.mark.skip(reason=reason))
        metafunc.parametrize(names, [nothing], ids=[run.dataset])
    elif names:
        ids = ["-".join(_identity(run, metafunc, names, row)) for row in rows]
        metafunc.parametrize(names, rows, ids=ids)


def _why_there_is_nothing(run: Run, fixtures: Iterable[str], names: list[str]) -> str:
    """The reason for skipping a test whose parameter set is empty."""
    table = next((one.threshold_table for one in metrics_among(fixtures) if one.threshold_table), None)
    if "epsilon" in names and table and norms_of(run, fixtures) and images_of(run, fixtures):
        return f"no threshold file states {table}.{run.dataset}"
    if "leaderboard" in fixtures:
        return "RobustBench states no robust accuracy in the norms of this run"
    empty = (one for one in metrics_among(fixtures) if not one.norms(run) or not one.images(run))
    return next((one.nothing for one in empty), "it has no model, norm, epsilon or image to run for")


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
    if name == "model_name":
        return run.models
    if name == "norm":
        return norms_of(run, fixtures)
    if name == "epsilon":
        return epsilons_of(run, fixtures, str(so_far["norm"]))
    return run.indices(images_of(run, fixtures))


def epsilons_of(run: Run, fixtures: Iterable[str], norm: str) -> tuple[str, ...]:
    """The epsilons of a test with these fixtures: those of its first metric that has a threshold table.

    If it has no such metric, those of robust accuracy, the first table of all metrics.
    """
    every = [*metrics_among(fixtures), *METRICS.values()]
    return next(one.epsilons(run, norm) for one in every if one.threshold_table)


def norms_of(run: Run, fixtures: Iterable[str]) -> tuple[str, ...]:
    """The norms of the run that all metrics among these fixtures are for, and `leaderboard` if it is one of these."""
    allowed: list[Collection[str]] = [one.norms(run) for one in metrics_among(fixtures)]
    if "leaderboard" in fixtures:
        allowed.append({stated.norm for stated in run.leaderboard.values()})
    return tuple(norm for norm in run.norms if all(norm in norms for norms in allowed))


def images_of(run: Run, fixtures: Iterable[str]) -> int:
    """How many images all metrics among these fixtures are for."""
    return min([run.images, *(one.images(run) for one in metrics_among(fixtures))])


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
    about: dict[str, object] = {"property": getattr(item, "originalname", item.name), **_concern_of(item)}
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


def _concern_of(item: pytest.Item) -> dict[str, object]:
    mark = item.get_closest_marker("about")
    if mark is None:
        return {}
    concern, feeds = _about(*mark.args, **mark.kwargs)
    if concern not in CONCERNS:
        raise pytest.UsageError(
            f"{item.nodeid}: got @pytest.mark.about({concern!r}), {closest(str(concern), CONCERNS)}"
        )
    return {"concern": concern, **({"feeds": str(feeds)} if feeds else {})}


def _about(concern: object = None, feeds: object = None) -> tuple[object, object]:
    return concern, feeds


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Sort tests of single images first, batch by batch; then tests of models, whose batches are then measured."""
    run = config.stash[RUN]
    order = {name: number for number, name in enumerate(run.models)}

    def by_batch(item: pytest.Item) -> tuple[bool, int, int]:
        about = subject_of(item, run)
        image, model = about.get("image"), str(about.get("model"))
        if not isinstance(image, int):
            return (True, 0, 0)
        return (False, order.get(model, len(order)), run.position(image) // run.batch_sizes.get(model, 1))

    items.sort(key=by_batch)
