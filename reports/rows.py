"""A row of the report: one property of a model, in a norm, as measured."""

import ast
import functools
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import robustness_tests
from robustness_tests.harness.measured import Figures
from robustness_tests.harness.records import UNJUDGED

GROUPS = {
    "requirement": "What the model has to do",
    "since": "Since the last release",
    "trust": "Can these numbers be trusted?",
    "own": "Tests of your own",
}
"""Parts of the report, in its order, by group of properties."""


GROUP_OF = {"model": "requirement", "release": "since", "numbers": "trust", "suite": "trust"}
"""Group by concern, see `@pytest.mark.about`; properties without one of these are tests of the user."""


@dataclass(frozen=True)
class PropertyDoc:
    """Docstring and mark of a property of `robustness_tests`.

    Attributes:
        claim: the first line of its docstring.
        about: the arguments of its mark: `concern`, and `feeds` if it feeds a part of the report.
        asks_for: its fixtures.
    """

    claim: str
    about: dict[str, str]
    asks_for: frozenset[str]


@functools.cache
def property_docs() -> dict[str, PropertyDoc]:
    """The properties of `robustness_tests`, by the name of the test function.

    The files are parsed, not imported: an import would load torch.
    """
    files = Path(robustness_tests.__file__).parent.glob("test_*.py")
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in files]
    functions = [node for tree in trees for node in tree.body if isinstance(node, ast.FunctionDef)]
    tests = [node for node in functions if node.name.startswith("test_")]
    return {
        node.name: PropertyDoc(
            (ast.get_docstring(node) or "").partition("\n")[0],
            _about(node),
            frozenset(argument.arg for argument in node.args.args),
        )
        for node in tests
    }


def _about(function: ast.FunctionDef) -> dict[str, str]:
    for call in function.decorator_list:
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "about":
            given = {"concern": call.args[0], **{str(keyword.arg): keyword.value for keyword in call.keywords}}
            return {name: str(ast.literal_eval(value)) for name, value in given.items()}
    return {}


def properties_of(not_given: Collection[str]) -> frozenset[str]:
    """The names of all test functions in a run of the whole gate, but those that ask for what is not given."""
    return frozenset(name for name, doc in property_docs().items() if not doc.asks_for.intersection(not_given))


def in_words(property_name: str) -> str:
    """The name of a test function as a reader sees it.

    Example:
        >>> in_words("test_share_of_clever_below_distance")
        'share of CLEVER below distance'
    """
    return property_name.removeprefix("test_").replace("_", " ").replace("clever", "CLEVER")


@dataclass(frozen=True, kw_only=True)
class Row(Figures):
    """A property of a model, with its figures.

    Attributes:
        property_name: name of the test function.
        concern: what a failure is about, see `@pytest.mark.about`; None if the property does not say.
        feeds: the part of the report that its numbers feed, if any.
        model: the model that it is about.
        reference: the model that it is compared with, if any.
        norm: norm of the perturbation, if any.
        epsilon: size of the perturbation, if any.
        tests: node ids of its tests; of those about images, the ones that went wrong.
        holm_p_value: its p-value, adjusted by Holm for all comparisons of the run.
        is_open: whether its interval or p-value leaves a requirement open: more images may decide it.
        images_to_decide: about how many images would decide it, with a probability of 80 %, if the effect is the
            measured one; None if it is not open, or if there is no such number.
        outcome: passed, failed, skipped, error (it could not be tested) or crashed.
        message: why it did not pass.
    """

    property_name: str
    concern: str | None
    feeds: str | None
    model: str | None
    reference: str | None
    norm: str | None
    epsilon: str | None
    tests: tuple[str, ...]
    images_to_decide: int | None
    outcome: str
    message: str
    holm_p_value: float | None = None
    is_open: bool = False

    @property
    def group(self) -> str:
        """The part of the report that the property belongs to: a key of `GROUPS`."""
        return GROUP_OF.get(self.concern or "", "own")

    @property
    def silent(self) -> bool:
        """Whether it was skipped without a value, so that there is only a reason to show."""
        return self.outcome == "skipped" and self.value is None

    @property
    def title(self) -> str:
        """The property in words.

        Example:
            "robust accuracy at linf 0.05" for `test_robust_accuracy` with norm and epsilon.
        """
        words = in_words(self.property_name)
        return f"{words}, {self.where}" if self.where else words

    @property
    def trouble(self) -> str:
        """Why it did not pass, in a sentence after its title."""
        return f"could not be tested: {self.message}" if self.outcome in UNJUDGED else self.message

    @property
    def where(self) -> str:
        """Norm, epsilon and condition, if any; in L-infinity also epsilon as n/255, if n is a whole number."""
        levels = _levels(self.epsilon) if self.norm == "linf" else None
        perturbation = " ".join(part for part in (self.norm, self.epsilon, levels) if part)
        return ", ".join(part for part in (perturbation, self.condition) if part)


HEADER = ("property", "model", "measured", "interval", "needed", "reference", "last release", "images", "verdict")


def cells(row: Row) -> tuple[str, ...]:
    """The row as text, in the columns of `HEADER`."""
    measured = "" if row.examples is not None else value_text(row, row.value) or _beyond(row, row.value)
    if row.median_ratio is not None:
        measured += f", median ratio {row.median_ratio:.2f}"
    measured += _bracket(row)
    return (
        row.title,
        row.model or "",
        measured,
        _interval(row),
        _needed(row),
        value_text(row, row.reference_value) or _beyond(row, row.reference_value),
        value_text(row, row.baseline_value),
        "" if row.images is None else str(row.images),
        row.outcome,
    )


def used_columns(rows: Iterable[Row]) -> list[str]:
    """The columns of `HEADER` that any of the rows fills."""
    texts = [cells(row) for row in rows]
    return [name for column, name in enumerate(HEADER) if any(line[column] for line in texts)]


def _interval(row: Row) -> str:
    if row.lower is None or row.upper is None:
        return ""
    if row.p_value is not None or row.difference is not None:
        if row.unit == "share":
            return f"difference {100 * row.lower:+.1f} to {100 * row.upper:+.1f} points"
        return f"difference {row.lower:+.4g} to {row.upper:+.4g}"
    return f"{value_text(row, row.lower)} to {value_text(row, row.upper)}"


SIGNS = {"at least": ">=", "at most": "<=", "equal": "="}


def _needed(row: Row) -> str:
    if row.threshold is None:
        return ""
    decide = f", about {row.images_to_decide:,} images decide" if row.images_to_decide else ""
    return _threshold(row) + (f"; open{decide}" if row.is_open else "")


def _threshold(row: Row) -> str:
    if row.p_value is not None:
        holm = "" if row.holm_p_value is None else f", Holm {row.holm_p_value:.2g}"
        return f"larger, p <= {row.threshold:.3g} (p = {row.p_value:.2g}{holm})"
    if row.examples is not None:
        return f"none of {row.examples} at {row.examples_at or f'{row.threshold:g} of the stated radius'}"
    if row.value is None:
        return ""
    needed = f"{SIGNS[row.needed]} {value_text(row, row.threshold)}"
    return f"{needed} within the interval" if row.judged_by == "interval" else needed


def value_text(row: Row, value: float | None) -> str:
    """A value in the unit of the row; empty where there is none."""
    if value is None:
        return ""
    texts = {"share": f"{value:.1%}", "ratio": f"{value:.3f}", "distance": f"{value:.4g}"}
    return texts[row.unit or "share"]


def _levels(epsilon: str | None) -> str | None:
    """An epsilon as a part of 255, if it is a whole one.

    Example:
        >>> _levels("0.00784"), _levels("0.5")
        ('(2/255)', None)
    """
    try:
        levels = 255 * float(epsilon or "")
    except ValueError:
        return None
    whole = round(levels)
    return f"({whole}/255)" if whole and abs(levels - whole) < 0.01 else None


def _beyond(row: Row, value: float | None) -> str:
    """Text for an infinite median in a comparison: for half of the images, no attack succeeded."""
    return "beyond the attacks" if value is None and row.p_value is not None and row.unit == "distance" else ""


def _bracket(row: Row) -> str:
    """Text about certificates, attacks and scores, to follow the measured value."""
    texts = []
    if row.clever_above is not None and row.clever_below is not None:
        texts.append(f" inside, {row.clever_above:.1%} above, {row.clever_below:.1%} below")
    if row.attack_ratio is not None:
        texts.append(f" solved, adversarial / exact {row.attack_ratio:.4f}")
    if row.certified_ratio is not None:
        over = "exact" if row.attack_ratio is not None else "adversarial"
        text = f"certified / {over} {row.certified_ratio:.2f}"
        texts.append(f"{text} (uninformative)" if row.uninformative else text)
    return ", ".join(texts)
