"""Options of the command line, each with a twin in the ini file. Imports no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import robustness_tests
from robustness_tests.harness.run import IN_USE
from robustness_tests.subjects.catalog import MODEL_NAMES, NORMS
from robustness_tests.subjects.sources import DATASET_FORMS, MODEL_FORMS

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
    Option(
        "model",
        "robust",
        f"Model under release: {', '.join((*MODEL_NAMES, *MODEL_FORMS))}",
        "MODEL",
    ),
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
    Option(
        "images",
        "",
        "Number of test images, from the first on (default: 100, of cifar10-sample 60; 20 with --quick)",
        "N",
    ),
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
    """Whether this run is about robustness, before anything else happens."""
    config.stash[IN_USE] = in_use(config)


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


def given_value(config: pytest.Config, option: Option) -> Any:
    """What was given on the command line, or else in the ini file, or else the default."""
    for value in (config.getoption(option.ini), config.getini(option.ini)):
        if value is not None:
            return value
    return False if option.is_flag else option.default
