"""Options: bad values end at once, with exit status 4 and one line; every option has a twin in the ini file."""

import importlib
import subprocess
import sys

import pytest

from meta_tests.conftest import ROOT
from meta_tests.runs import image_record, results_of, run_of
from reports.results_json import write_results
from robustness_tests.harness.options import EFFORTS, OPTIONS, PRECISIONS
from robustness_tests.harness.run import CERTIFIED_NORMS
from robustness_tests.harness.thresholds import load_thresholds
from robustness_tests.subjects.catalog import NORMS

BAD = {
    "unknown model": (
        ["--model", "nonsense"],
        "--model: got 'nonsense', expected one of 'standard', 'robust', 'mlp'*'path/file.py:factory'",
    ),
    "nearly a model": (["--model", "robst"], "did you mean 'robust'?"),
    "unknown reference": (["--against", "nobody"], "--against: got 'nobody'"),
    "unknown dataset": (
        ["--dataset", "digit"],
        "--dataset: got 'digit', expected one of 'digits', 'cifar10-sample', 'cifar10'*; did you mean 'digits'?",
    ),
    "require in l1": (
        ["--certify", "require", "--norms", "l1"],
        "--certify: got 'require' with --norms l1, expected linf",
    ),
    "unknown certify": (["--certify", "always"], "--certify: got 'always', expected one of 'auto', 'off', 'require'"),
    "negative images": (["--images", "-3"], "--images: got '-3', expected a whole number, 1 or more"),
    "no images": (["--images", "0"], "--images: got '0', expected a whole number, 1 or more"),
    "too many images": (["--images", "361"], "--images: got 361, expected at most 360"),
    "images in words": (["--images", "ten"], "--images: got 'ten'"),
    "bundled model, other data": (
        ["--dataset", "npz:two.npz"],
        "--model: got 'robust', expected, for this dataset, one of 'robustbench:*'path/file.py:factory'",
    ),
    "model without attribute": (["--model", "two.py"], "--model: got 'two.py', expected path/file.py:NAME"),
    "absent file": (["--model", "none.py:net"], "--model: got 'none.py:net', but there is no '*none.py'"),
    "absent program": (["--model", "none.pt2"], "--model: got 'none.pt2', but there is no '*none.pt2'"),
    "absent npz": (["--dataset", "npz:none.npz"], "--dataset: got 'npz:none.npz', but there is no '*none.npz'"),
    "nobody's home": (["--dataset", "npz:~nobody-of-this-name/x.npz"], "~nobody-of-this-name/x.npz', which is no path"),
    "too long": (["--dataset", f"npz:{'x' * 300}"], "which is no path: *File name too long"),
    "folder as npz": (["--dataset", "npz:metrics"], "--dataset: got 'npz:metrics', which is a folder, expected a file"),
    "unknown threat": (
        ["--model", "robustbench:cifar10/linf/Standard"],
        "--model: got 'linf' in 'robustbench:cifar10/linf/Standard', expected one of 'Linf', *; did you mean 'Linf'?",
    ),
    "short name of RobustBench": (["--model", "robustbench:Standard"], "expected robustbench:DATASET/THREAT/NAME"),
    "unknown corruption": (["--dataset", "cifar10-c:frog:3"], "got corruption 'frog' in *; did you mean 'fog'?"),
    "no severity": (["--dataset", "cifar10-c:fog"], "got severity '' in 'cifar10-c:fog', expected 1 to 5"),
    "radius of no norm": (["--clever-radius", "l7=1"], "--clever-radius: got 'l7=1', expected one of 'linf'"),
    "no radius": (["--clever-radius", "l2=0"], "--clever-radius: got 'l2=0', expected l2= and a positive number"),
    "unknown norm": (["--norms", "l7"], "--norms: got 'l7', expected one of 'linf', 'l2'"),
    "no norm": (["--norms", ""], "--norms: got ''"),
    "unknown effort": (["--effort", "through"], "--effort: got 'through', expected one of 'quick'*mean 'thorough'?"),
    "two efforts": (["--effort", "thorough", "--quick"], "--effort: got 'thorough' together with --quick"),
    "unknown sample": (["--sample", "stratify"], "--sample: got 'stratify', expected *did you mean 'stratified'?"),
    "wrong size": (["--image-size", "224x"], "--image-size: got '224x', expected 224, 256/224 or 224x224"),
    "size of arrays": (["--image-size", "32"], "--image-size: got *, and images of 8x8 pixels that are no pictures"),
    "unknown precision": (["--precision", "fp8"], "--precision: got 'fp8', expected one of 'float32', 'tf32', 'bf16'"),
    "no batch": (["--batch-size", "0"], "--batch-size: got '0', expected a whole number, 1 or more"),
    "unknown device": (["--device", "tpu"], "--device: got 'tpu', expected auto, cpu, cuda or cuda:N"),
    "absent GPU": (["--device", "cuda:99"], "--device: got 'cuda:99', but"),
    "negative seed": (["--seed", "-1"], "--seed: got '-1', expected a whole number, 0 or more"),
    "no such shard": (["--shard", "5/4"], "--shard: got '5/4', expected NUMBER/COUNT: 3/16 for the third of sixteen"),
    "shard of an open number": (["--shard", "1/4", "--images", "auto"], "--shard: got '1/4' with --images auto"),
    "file as results": (["--results", "conftest.py"], "--results: got 'conftest.py', which is a file"),
    "file as store": (["--store", "conftest.py"], "--store: got 'conftest.py', which is a file, expected a folder"),
    "file above results": (
        ["--results", "conftest.py/deep"],
        "--results: got 'conftest.py/deep', but conftest.py is a file",
    ),
    "absent thresholds": (["--thresholds", "none.toml"], "none.toml that cannot be read"),
    "typo in thresholds": (
        ["--thresholds", "typo.toml"],
        "got 'clean_accuracy.lest' in *typo.toml, *did you mean 'clean_accuracy.least'?",
    ),
}


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
@pytest.mark.parametrize("case", BAD)
def test_bad_value_is_a_usage_error(gate, case, workers):
    arguments, message = BAD[case]
    (gate.folder / "typo.toml").write_text("[clean_accuracy]\nlest = 0.9\n")
    for name in ("two.npz", "two.py"):
        (gate.folder / name).touch()
    result = gate(workers, *arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: *{message.replace('[', '[[]')}*"])
    assert "Traceback" not in result.stderr.str() + result.stdout.str()
    assert len([line for line in result.stderr.lines if line.strip()]) == 1
    assert not gate.results_folder.exists(), "nothing is begun"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '[failure_probability.digits]\nlinf = { "0.1" = 1 }',
            "got failure_probability.digits.linf.0.1 = 1 in .*, expected a probability below 1",
        ),
        ("confidence = 1.5", "got confidence = 1.5 in .*, expected a number above 0 and at most 1"),
        ("confidence = true", "got confidence = True"),
        ("confidence = '95 %'", "got confidence = '95 %'"),
        ("confidenc = 0.9", "got 'confidenc' in .*did you mean 'confidence'"),
        ("[clean_accuracy]\nlest = 0.9", "got 'clean_accuracy.lest' in .*did you mean 'clean_accuracy.least'"),
        ("[clean]\nleast = 0.9", "got 'clean' in .*expected one of"),
        ("[robust_acuracy.digits]\nl2 = {}", "got 'robust_acuracy' in .*did you mean 'robust_accuracy'"),
        ("[robust_accuracy.digits]\nl2 = { 0.5 = 0.5 }", "expected a positive number in quotes"),
        ("[clean_accuracy", "that is not TOML"),
        ("robust_accuracy = 1", r"expected a table \[robust_accuracy.DATASET\]"),
        ("[robust_accuracy.digits]\nl3 = {}", "got 'robust_accuracy.digits.l3'"),
        ("[robust_accuracy.digits]\nl2 = 0.5", "expected { epsilon = least share, ... }"),
        ('[robust_accuracy.digits]\nl2 = { "-1" = 0.5 }', "got epsilon '-1' .* expected a positive number"),
        ('[robust_accuracy.digits]\nl2 = { "inf" = 0.5 }', "got epsilon 'inf' .* expected a positive number"),
        ('[robust_accuracy.digits]\nl2 = { "0.5" = 5 }', "got robust_accuracy.digits.l2.0.5 = 5"),
        ('[certified_accuracy.digits]\nl2 = { "0.5" = 5 }', "got certified_accuracy.digits.l2.0.5 = 5"),
        ("[models]\nmlp = 1", r"expected tables \[models.NAME"),
        ("[datasets]\nmine = 1", r"expected tables \[datasets.NAME"),
        ("[datasets.mine.clean_accuracy]\nlest = 0.9", "got 'clean_accuracy.lest' in"),
        ('[noise_accuracy.mine]\nl2 = { "0.5" = 5 }', "got noise_accuracy.mine.l2.0.5 = 5"),
        ("[models.mlp.clean_accuracy]\nlest = 0.9", "got 'clean_accuracy.lest' in"),
        ("[models.mlp.models.mlp]\nconfidence = 0.9", "got 'models' in"),
    ],
)
def test_bad_thresholds_are_refused(tmp_path, text, message):
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_thresholds(tmp_path / "mine.toml")


def test_thresholds_of_a_file_replace_those_it_names(tmp_path):
    (tmp_path / "mine.toml").write_text(
        '[robust_accuracy.digits]\nl2 = { "0.1" = 0.5 }\n[clever_radius]\nfactor = 0.25\n'
    )
    mine, default = load_thresholds(tmp_path / "mine.toml"), load_thresholds(None)
    assert mine.clever_radius_factor == 0.25
    assert mine.epsilons("digits", "l2") == {**default.epsilons("digits", "l2"), "0.1": 0.5}, "no condition is lost"
    assert mine.epsilons("digits", "linf") == default.epsilons("digits", "linf")
    assert mine.clean_accuracy == default.clean_accuracy
    assert mine.epsilons("other", "l2") == {}


def test_thresholds_of_one_candidate(tmp_path):
    """The user's file wins over the defaults of a candidate, and its own tables of the candidate over both."""
    default, mlp = load_thresholds(None, "robust", "digits"), load_thresholds(None, "mlp", "digits")
    assert (default.clean_accuracy, mlp.clean_accuracy) == (0.98, 0.95)
    assert set(mlp.epsilons("digits", "linf", "certified_accuracy")) > set(
        default.epsilons("digits", "linf", "certified_accuracy")
    )
    assert mlp.epsilons("digits", "linf") == default.epsilons("digits", "linf")
    (tmp_path / "mine.toml").write_text("[clean_accuracy]\nleast = 0.5\n[models.robust.clean_accuracy]\nleast = 0.25\n")
    assert [
        load_thresholds(tmp_path / "mine.toml", name, "digits").clean_accuracy for name in ("mlp", "robust", "")
    ] == [
        0.5,
        0.25,
        0.5,
    ]


def test_thresholds_of_other_data_and_models_are_told_and_not_used(tmp_path):
    (tmp_path / "mine.toml").write_text(
        "[datasets.mine.clean_accuracy]\nleast = 0.7\n[models.net.clean_accuracy]\nleast = 0.8\n"
        '[noise_accuracy.other]\nl2 = { "1" = 0.5 }\n'
    )
    here, there = (
        load_thresholds(tmp_path / "mine.toml", "net", "mine"),
        load_thresholds(tmp_path / "mine.toml", "x", "y"),
    )
    assert (here.clean_accuracy, here.others) == (0.8, ("noise_accuracy.other",))
    assert (there.clean_accuracy, there.others) == (None, ("datasets.mine", "models.net", "noise_accuracy.other"))
    assert load_thresholds(None, "net", "mine").others == (), "those of the bundled models are nobody's mistake"


def test_every_option_has_a_twin_and_the_command_line_wins(gate):
    ini = "\n".join(f"{option.ini} = {TWINS[option.name]}" for option in OPTIONS if option.has_twin)
    (gate.folder / "pytest.ini").write_text(f"[pytest]\npythonpath = .\naddopts = --import-mode=importlib\n{ini}\n")
    (gate.folder / "mine.toml").write_text("confidence = 0.9\n")
    last = run_of(
        ("standard", "robust"), effort="quick", norms=("l2",), seed=5, sampling="random", clever_radius={"l2": 0.75}
    )
    write_results(gate.folder / "last.json", results_of(image_record(model="standard", norm="l2"), run=last))
    (gate.folder / "test_twins.py").write_text(
        "def test_run(run):\n"
        "    assert (run.model, run.against, run.dataset, run.images) == ('standard', 'robust', 'digits', 7)\n"
        "    assert (run.quick, run.norms, run.batch_sizes['standard'], run.device) == (True, ('l2',), 3, 'cpu')\n"
        "    assert (run.certify, run.precision, run.sampling, run.deployed) == ('off', 'bf16', 'random', 'mlp')\n"
        "    assert (run.seed, run.results.name, run.store.name, run.fresh) == (5, 'elsewhere', 'shared', True)\n"
        "    assert run.thresholds.confidence == 0.9\n"
        "    assert (run.clever_radius['l2'], run.data_dir.name) == (0.75, 'data')\n"
        "    assert (run.baseline.file, run.summary.name) == ('last.json', 'summary.md')\n"
    )
    assert gate("-n0", "--images", "7", "test_twins.py").ret == 0


TWINS = {
    "model": "standard",
    "against": "robust",
    "deployed": "mlp",
    "dataset": "digits",
    "data-dir": "data",
    "images": "9",
    "effort": "quick",
    "quick": "true",
    "norms": "l2",
    "precision": "bf16",
    "sample": "random",
    "image-size": "",
    "certify": "off",
    "clever-radius": "l2=0.75",
    "batch-size": "3",
    "device": "cpu",
    "timeout-per-batch": "60",
    "seed": "5",
    "thresholds": "mine.toml",
    "baseline": "last.json",
    "results": "elsewhere",
    "store": "shared",
    "summary": "summary.md",
    "fresh": "true",
}


def test_names_known_without_torch_are_those_of_the_metrics():
    assert tuple(importlib.import_module("metrics.attacks").EFFORTS) == EFFORTS
    assert importlib.import_module("metrics.precision").PRECISIONS == PRECISIONS
    assert importlib.import_module("metrics.norms").NORMS == NORMS
    assert importlib.import_module("metrics.certified_distance").CERTIFIED_NORMS == CERTIFIED_NORMS


def test_scipy_stats_is_not_loaded_at_the_start():
    """It takes as long to import as the rest of the suite without torch."""
    code = "import sys, metrics, robustness_tests.judgements; print('scipy.stats' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_controller_of_a_distributed_run_does_not_import_torch(gate):
    (gate.folder / "test_sys.py").write_text("def test_nothing(): pass\n")
    (gate.folder / "conftest.py").write_text(
        (gate.folder / "conftest.py").read_text() + "\nimport sys\ndef pytest_unconfigure(config):\n"
        "    if not hasattr(config, 'workerinput'):\n        print('torch' in sys.modules)\n"
    )
    result = gate("-n1", "test_sys.py", "-s")
    assert result.outlines[-1] == "False"
