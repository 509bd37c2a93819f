"""Options of the command line, and their twins in the ini file. Imports no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

import robustness_tests
from robustness_tests.harness.run import IN_USE
from robustness_tests.subjects.catalog import DATASETS, MODEL_NAMES, NORMS
from robustness_tests.subjects.image_size import FORMS
from robustness_tests.subjects.sources import DATASET_FORMS, MODEL_FORMS

SUITE = Path(robustness_tests.__file__).parent

CERTIFY = ("auto", "off", "require")
EFFORTS = ("quick", "default", "thorough")
PRECISIONS = ("float32", "tf32", "bf16")
SAMPLES = ("first", "stratified", "random")
"""As in the metrics and in `subjects.sampling`, which are not imported here: that would import torch or numpy."""


@dataclass(frozen=True)
class Option:
    """One option: `--NAME` on the command line, `robustness_NAME` in the ini file.

    Attributes:
        name: without the dashes.
        default: what counts where the option is not given; empty where that depends on other options.
        help: one sentence, for `pytest --help`.
        metavar: the name of the value; None for a flag.
        usual: the default in words, where `default` is empty.
        details: more sentences in Markdown, for the documentation only.
        has_twin: False for what belongs to one run, and would do harm in a file.
    """

    name: str
    default: str
    help: str
    metavar: str | None = None
    usual: str = ""
    details: str = ""
    has_twin: bool = True

    @property
    def is_flag(self) -> bool:
        """A flag has no value on the command line."""
        return self.metavar is None

    @property
    def ini(self) -> str:
        """The name of the twin in the ini file."""
        return f"robustness_{self.name.replace('-', '_')}"


OPTIONS_OF = {
    "what is measured": [
        Option(
            "model",
            "robust",
            f"The candidate, the model under release: {', '.join((*MODEL_NAMES, *MODEL_FORMS))}",
            "MODEL",
            details="All forms are in [Your own model and data](models_and_data.md).",
        ),
        Option(
            "against",
            "",
            "The reference, a model that the candidate has to beat",
            "MODEL",
            usual="standard on digits and cifar10-sample, and for robust on cifar10; else no comparison",
            details="The same forms as `--model`. Give the same model twice to leave out the comparison.",
        ),
        Option(
            "deployed",
            "",
            "The form of the candidate that ships, a quantised one for example",
            "MODEL",
            usual="none",
            details="The same forms as `--model`. It needs no gradient: the adversarial examples of the candidate are "
            "run on it. See [the form that ships](models_and_data.md#the-form-that-ships).",
        ),
        Option("dataset", "digits", f"The test images: {', '.join((*DATASETS, *DATASET_FORMS))}", "DATASET"),
        Option(
            "images",
            "",
            "Number of test images; auto or auto:LIMIT goes on until the requirements are decided",
            "N",
            usual="100; cifar10-sample 60; --quick 20",
            details="`auto` begins with the usual number and doubles it, up to 1,000 images or `LIMIT`. See "
            "[How many images?](properties.md#how-many-images).",
        ),
        Option(
            "image-size",
            "",
            f"Size that image files are brought to: {FORMS}",
            "SIZE",
            usual="what the model states; else unchanged",
            details="`224` resizes the shorter side to 224 pixels and keeps the central square. `256/224` resizes "
            "it to 256 and keeps the central 224x224 pixels. `224x320` resizes to this height and width. Without the "
            "option, the size is that of `torchvision:`, `timm:` and `hf:` models, and the header shows it.",
        ),
        Option(
            "sample",
            "first",
            f"Which test images are taken: {', '.join(SAMPLES)}",
            "HOW",
            details="`random` draws them with the seed of the run, and `stratified` also takes the classes in turn. "
            "Use one of these where a file is sorted by class. Images keep their dataset indices and seeds.",
        ),
        Option("norms", "linf,l2", f"Norms of the perturbations, separated by commas: {', '.join(NORMS)}", "NORMS"),
        Option(
            "certify",
            "auto",
            "Prove lower bounds: auto (the first 20 images, where possible), require or off",
            "WHETHER",
            details="With `--effort thorough`, `auto` takes all images. It skips a model that has no bounds. `require` "
            "takes all images, and fails where there are no bounds.",
        ),
        Option(
            "clever-radius",
            "",
            "Largest radius of the balls that CLEVER samples, for each norm: linf=0.05,l2=1",
            "RADII",
            usual="a constant of the dataset, or estimated from the models",
            details="The radius of your own data is three times the median distance at which linear models with the "
            "same gradients would be fooled, from 16 images (six times in `l1`), rounded up to 1, 2 or 5. The "
            "header and the report show it. State it yourself where you compare the numbers of several runs.",
        ),
    ],
    "how it is measured": [
        Option(
            "effort",
            "",
            f"Budget for each image: {', '.join(EFFORTS)}",
            "EFFORT",
            usual="default",
            details="At most 40, 200 or 1,000 forward passes, and as many backward passes, for an adversarial distance;"
            " 24, 40 or 320 walks for a CLEVER score, each of at most seven points.",
        ),
        Option(
            "quick",
            "",
            "The quick effort and 20 images: for a first look, not for a release",
            details="The verdict says `(quick)`.",
        ),
        Option(
            "device",
            "auto",
            "auto, cpu, cuda or cuda:N",
            "DEVICE",
            details="`auto` takes a GPU if there is one, and gives each worker its own.",
        ),
        Option(
            "batch-size",
            "",
            "Images that are measured together",
            "N",
            usual="20 on a CPU, fewer for large models, 100 on a GPU",
            details="CLEVER puts five samples of each image through the model at once. A batch that does not fit into "
            "the memory is halved.",
        ),
        Option(
            "precision",
            "float32",
            f"Arithmetic in which attacks search: {', '.join(PRECISIONS)}",
            "PRECISION",
            details="`tf32` and `bf16` are for GPUs that have them. On a CPU `tf32` makes no difference, and `bf16` "
            "is faster for some networks and slower for others. What an attack finds is confirmed in the model's own "
            "precision, and everything else is measured in it. Distances become 0.05 to 0.8 % larger in the median "
            "([benchmarks](../benchmarks/README.md)).",
        ),
        Option(
            "timeout-per-batch",
            "",
            "Longest time for measuring a batch, for each metric, model and norm; tests of a longer one are errors",
            "SECONDS",
            details="The other batches are measured. A call of one operator or of the solver of exact distances is not "
            "interrupted before its end. Not on Windows.",
        ),
        Option(
            "shard",
            "",
            "Measure this part of the batches into the store, and assert nothing: 3/16 for the third of sixteen",
            "NUMBER/COUNT",
            usual="everything is measured and asserted",
            details="See [Several machines](scaling.md#several-machines). It has no name in the ini file.",
            has_twin=False,
        ),
        Option("seed", "0", "Seed of everything that is random", "N"),
        Option("fresh", "", "Measure again what is stored"),
        Option(
            "self-check",
            "",
            "Check the metrics on this machine and device, on cases with known answers, and measure no model",
            details="It takes 20 seconds. Run it first where numbers look odd. It has no name in the ini file.",
            has_twin=False,
        ),
    ],
    "what is good enough": [
        Option(
            "thresholds",
            "",
            "TOML file whose values replace those of robustness_tests/thresholds.toml",
            "FILE",
            details="See [Thresholds and baselines](thresholds.md).",
        ),
        Option(
            "baseline",
            "",
            "results.json of the last release, whose numbers may not fall",
            "FILE",
            details="See [Thresholds and baselines](thresholds.md#baselines).",
        ),
    ],
    "files": [
        Option("results", "robustness-results", "Folder of report.html and results.json", "DIR"),
        Option(
            "store",
            "",
            "Folder of stored measurements; several runs may share it",
            "DIR",
            usual="measurements in the folder of --results",
            details="Runs on other machines may use it at the same time, see [Scaling](scaling.md).",
        ),
        Option(
            "summary",
            "",
            "Also write a summary in Markdown to this file",
            "FILE",
            details="On GitHub the summary appears on the page of the run without this option.",
        ),
        Option(
            "data-dir",
            "",
            "Folder of named datasets and checkpoints; missing files are downloaded to it",
            "DIR",
            usual="the cache folder of the user",
        ),
    ],
}
"""Every option, by its group in `pytest --help` and in docs/options.md."""

OPTIONS = [option for options in OPTIONS_OF.values() for option in options]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register every option, and its twin."""
    taken = _names_of_options(parser)
    for title, options in OPTIONS_OF.items():
        group = parser.getgroup(f"robustness: {title}")
        for option in options:
            # No defaults here: what is not given is looked up in the ini file.
            settings: dict[str, Any] = {"dest": option.ini, "default": None, "help": option.help}
            usual = option.usual or option.default
            settings["help"] += f" (default: {usual})" if usual else ""
            if option.is_flag:
                settings["action"] = "store_true"
            else:
                settings["metavar"] = option.metavar
            if option.has_twin:
                kind: Literal["bool", "string"] = "bool" if option.is_flag else "string"
                parser.addini(option.ini, option.help, type=kind, default=None)
            # Another plugin, or the conftest of the user, may have an option of the short name: it keeps it.
            names = [name for name in (f"--{option.name}", f"--robustness-{option.name}") if name not in taken]
            group.addoption(*names, **settings)


def _names_of_options(parser: pytest.Parser) -> set[str]:
    """The names of all options so far. To try a name and see would do harm: pytest 9.0 gives it away all the same."""
    return {name for group in parser._groups for option in group.options for name in option.names()}  # noqa: SLF001


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Whether this run is about robustness, before anything else happens; and if so, what it collects and shows."""
    config.stash[IN_USE] = in_use(config)
    if config.getoption("robustness_self_check"):
        if config.args_source == pytest.Config.ArgsSource.ARGS:
            raise pytest.UsageError(f"--self-check: got also {' '.join(config.args)!r}, expected no other tests")
        config.args = [str(SUITE / "self_check.py")]
    elif config.args_source != pytest.Config.ArgsSource.ARGS and _given_on_command_line(config):
        # `pytest --model net.py:factory` in a folder of the user's: no test is named, so the gate is meant.
        config.args = [str(SUITE)]
    if config.stash[IN_USE] and config.option.tbstyle == "auto":
        # As the ini file of a checkout says: a property explains itself in one sentence.
        config.option.tbstyle = "short"


def in_use(config: pytest.Config) -> bool:
    """Whether this run is about robustness: other runs, where the suite is installed, are left as they are.

    It is, if an option is given, on the command line or in the ini file, if the tests of the suite are named, or in a
    checkout of it.
    """
    if any(_given(config, option) is not None for option in OPTIONS) or config.rootpath == SUITE.parent:
        return True
    return any(SUITE.name in str(argument) for argument in config.invocation_params.args)


def _given_on_command_line(config: pytest.Config) -> bool:
    return any(config.getoption(option.ini) is not None for option in OPTIONS)


def given_value(config: pytest.Config, option: Option) -> Any:
    """What was given on the command line, or else in the ini file, or else the default."""
    value = _given(config, option)
    if value is not None:
        return value
    return False if option.is_flag else option.default


def _given(config: pytest.Config, option: Option) -> Any:
    """None where it is given neither on the command line nor in the ini file."""
    value = config.getoption(option.ini)
    return config.getini(option.ini) if value is None and option.has_twin else value
