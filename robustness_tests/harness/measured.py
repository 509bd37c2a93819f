"""The values that a test records: the names that reports know, and the fixture `measured`."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, get_args, get_origin, get_type_hints

import pytest

from robustness_tests.harness.values import plain
from robustness_tests.subjects.catalog import closest

if TYPE_CHECKING:
    # scipy takes a second; the controller of a distributed run reads records and never needs it.
    from metrics.statistics import Estimate

ABOUT = ("property", "concern", "feeds", "model", "reference", "norm", "epsilon", "image")
"""What a test is about; not measured."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """The figures of a property in a row of the report.

    Attributes:
        images: number of images that the value is measured on.
        value: the measured value; a share of images for a property that is tested image by image.
        lower: lower end of the interval of the value or, in a comparison, of the difference.
        upper: upper end of that interval.
        difference: median or mean of the differences, in a comparison.
        threshold: the threshold for the value, or for the p-value of a comparison.
        reference_value: the value of the reference.
        baseline_value: the value of the last release.
        p_value: p-value of a comparison.
        median_ratio: median of CLEVER / adversarial distance.
        certified_ratio: median of certified / exact distance, or certified / adversarial distance.
        attack_ratio: mean of adversarial / exact distance.
        clever_above: share of images whose CLEVER score is above the exact or adversarial distance.
        clever_below: share of images whose CLEVER score is below the certified distance.
        uninformative: whether the certificates are so small that they say nothing about the model.
        examples: number of perturbations that hypothesis drew.
        examples_at: norm of these perturbations, in words.
        condition: another condition of the measurement beside norm and epsilon, in words.
        unit: unit of value, interval, threshold and reference value. Distances are in units of the image range [0, 1].
            The default is "distance" for a comparison with a p-value, and "share" otherwise.
        needed: what the value has to be, compared with the threshold. Not of a comparison.
        judged_by: "interval" if the test fails only where the whole interval is on the wrong side of the threshold.
    """

    images: int | None = None
    value: float | None = None
    lower: float | None = None
    upper: float | None = None
    difference: float | None = None
    threshold: float | None = None
    reference_value: float | None = None
    baseline_value: float | None = None
    p_value: float | None = None
    median_ratio: float | None = None
    certified_ratio: float | None = None
    attack_ratio: float | None = None
    clever_above: float | None = None
    clever_below: float | None = None
    uninformative: bool = False
    examples: int | None = None
    examples_at: str | None = None
    condition: str | None = None
    unit: Literal["share", "distance", "ratio"] | None = None
    needed: Literal["at least", "at most", "equal"] = "at least"
    judged_by: Literal["value", "interval"] = "value"


@dataclass(frozen=True, kw_only=True)
class Costs:
    """The cost of a measurement.

    Attributes:
        forward: forward passes spent.
        backward: backward passes spent.
        stored: whether all values were read from the store.
    """

    forward: int | None = None
    backward: int | None = None
    stored: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Measured(Figures, Costs):
    """All names of a record that reports know.

    Attributes:
        worst: dataset indices of the images to look at after a failure, the worst first.
    """

    worst: list[int] | None = None


Known = TypeVar("Known", Figures, Costs, Measured)
KINDS = get_type_hints(Measured)


class Measure(Protocol):
    """The fixture `measured`."""

    def __call__(
        self,
        own: Mapping[str, Any] | None = None,
        /,
        *,
        estimate: "Estimate | None" = None,
        difference: "Estimate | None" = None,
        **known: Any,
    ) -> None:
        """Put values into the record of the running test, see `values_of`."""


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Measure:
    """Put values into the record of the running test: `measured(estimate=..., threshold=..., images=...)`.

    The values appear in results.json, in the HTML report and, as properties, in JUnit XML. The names are the fields of
    `Measured`. Put values under other names into a dictionary: `measured({"brightness": 0.7}, images=20)`.
    """

    def record(own: Mapping[str, Any] | None = None, /, **known: Any) -> None:
        request.node.user_properties.extend(values_of(own, **known).items())

    return record


def values_of(
    own: Mapping[str, Any] | None = None,
    /,
    *,
    estimate: "Estimate | None" = None,
    difference: "Estimate | None" = None,
    **known: Any,
) -> dict[str, Any]:
    """Convert the arguments of `measured` to the plain values of a record.

    Args:
        own: values under names that reports do not know: numbers, text, lists, tensors.
        estimate: sets `value`, `lower` and `upper`.
        difference: sets `difference`, `lower` and `upper`, for a comparison.
        known: other fields of `Measured`.

    Raises:
        ValueError: for a name that is not a field of `Measured`, or a name in `own` that is reserved.
        TypeError: for a value that has not the type of its field, or that cannot be converted to a plain value.

    Example:
        >>> from metrics.statistics import share
        >>> values_of({"wrong": [3]}, estimate=share(1, 2), threshold=0.9, images=2)
        {'wrong': [3], 'value': 0.5, 'lower': 0.012..., 'upper': 0.987..., 'threshold': 0.9, 'images': 2}
    """
    for name in own or {}:
        if name in KINDS or name in ABOUT:
            raise ValueError(f"got {name!r} in a dictionary of values of your own, expected {_how(name)}")
    for name in known:
        if name not in KINDS:
            raise ValueError(f"got measured({name}=...), expected {_how(name)}")
    for name, interval in {"estimate": estimate, "difference": difference}.items():
        if interval is not None:
            known = {**_ends(name, interval), **known}
    given = {name: plain(value) for name, value in known.items()}
    for name, value in given.items():
        if not _fits(value, KINDS[name]):
            raise TypeError(f"got measured({name}={value!r}), expected {_in_words(KINDS[name])}")
    return {name: plain(value) for name, value in (own or {}).items()} | given


def read(kind: type[Known], values: Mapping[str, object]) -> Known:
    """The known names of a record; what pytest's `record_property` gave another type is left out.

    Example:
        >>> read(Costs, {"forward": 20, "stored": "perhaps", "value": 0.5})
        Costs(forward=20, backward=None, stored=None)
    """
    names = [field.name for field in fields(kind)]
    known: dict[str, Any] = {
        name: values[name] for name in names if name in values and _fits(values[name], KINDS[name])
    }
    return kind(**known)


def _how(name: str) -> str:
    if name in ABOUT:
        return "another name: this one says what a test is about"
    if name in KINDS:
        return f"measured({name}=...): reports know this name"
    known = closest(name, ["estimate", *KINDS]).removeprefix("expected ")
    return f"{known}. A name of your own stands in a dictionary: measured({{{name!r}: ...}})"


def _ends(name: str, interval: "Estimate") -> dict[str, float]:
    try:
        middle, lower, upper = interval.value, interval.lower, interval.upper
    except AttributeError:
        raise TypeError(
            f"got measured({name}={interval!r}), expected an Estimate of metrics.statistics, which has value, lower "
            "and upper"
        ) from None
    return {"value" if name == "estimate" else name: middle, "lower": lower, "upper": upper}


def _fits(value: object, kind: Any) -> bool:
    """Whether a plain value is of a type: classes, unions, literals and lists, as the fields of `Measured` have."""
    if NoneType in get_args(kind):
        return any(_fits(value, one) for one in get_args(kind))
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) is list:
        return isinstance(value, list) and all(_fits(item, *get_args(kind)) for item in value)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)


def _in_words(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", "")
