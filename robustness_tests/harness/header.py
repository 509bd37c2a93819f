"""The run in lines, at the top of the terminal. Imports no torch."""

from collections.abc import Sequence

import pytest

from robustness_tests.harness.looks import Looks
from robustness_tests.harness.run import IN_USE, RUN, Run


def describe(run: Run) -> Sequence[str]:
    """The run in lines for the header of the terminal."""
    comparison = "" if run.model == run.against else f" against {named(run, run.against)}"
    certified = {"auto": "", "off": ", nothing certified", "require": ", all certified"}[run.certify]
    budget = "quick: not for a release" if run.quick else f"{run.effort} effort"
    sampled = "" if run.sampling == "first" else f" ({run.sampling})"
    shipped = f", deployed as {named(run, run.deployed)}," if run.deployed else ""
    subject = f"{named(run, run.model)}{comparison}{shipped} on {named_dataset(run)}, {run.images} images{sampled}"
    search = "" if run.precision == "float32" else f", attacks search in {run.precision}"
    radii = ", ".join(f"{norm} {run.clever_radius[norm]:g}" for norm in run.norms)
    unused, baseline = run.thresholds.others, run.baseline
    last = f"{baseline.model}, {baseline.finished}, from {baseline.file}" if baseline else ""
    return [
        f"robustness: {subject}, {', '.join(run.norms)}, {budget}{certified}",
        (
            f"robustness: seed {run.seed}, device {run.device}{search}, CLEVER's radius {radii}, "
            f"thresholds {' and '.join(run.thresholds.files)}, results in {run.results}"
        ),
        *([f"robustness: {looks_in_words(run.looks)}"] if run.looks else []),
        *([f"robustness: compared with the last release, {last}"] if last else []),
        *(f"robustness: RobustBench states for {name}: {stated}" for name, stated in run.leaderboard.items()),
        *([f"robustness: thresholds for others, not used: {', '.join(unused)}"] if unused else []),
        *([f"robustness: pictures are resized: {run.image_size}"] if run.image_size else []),
        *(f"robustness: {remark}" for remark in run.remarks),
    ]


def looks_in_words(looks: Looks) -> str:
    """Which look of `--images auto` a run is, and what it may spend.

    Example:
        >>> looks_in_words(Looks((100, 200, 400), number=1))
        'look 2 of 3, at 100, 200, 400 images; each spends 1/3 of the error'
    """
    sizes = ", ".join(f"{size:,}" for size in looks.sizes)
    count = len(looks.sizes)
    return f"look {looks.number + 1} of {count}, at {sizes} images; each spends 1/{count} of the error"


def named(run: Run, model: str) -> str:
    """The name of a model, with its source in brackets if that is not the name."""
    text = run.sources[model].text
    return model if text == model else f"{model} ({text})"


def named_dataset(run: Run) -> str:
    """The name of the dataset, with its source in brackets if that is not the name."""
    text = run.dataset_source.text
    return run.dataset if text == run.dataset else f"{run.dataset} ({text})"


def pytest_report_header(config: pytest.Config) -> Sequence[str]:
    """What is run, at the top of the terminal."""
    if config.getoption("robustness_self_check"):
        return [f"robustness: self-check, device {config.stash[RUN].device}"]
    return describe(config.stash[RUN]) if config.stash[IN_USE] else []
