"""The gate as its users run it: in processes of its own, with and without workers, whole, in part, and interrupted."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from meta_tests.conftest import ROOT, WHOLE
from robustness_tests.harness.baseline import SCHEMA

QUICK = ("--quick", "--images", "15", "--batch-size", "5", "--norms", "l2", "-k", "is_real or clever_below")
TESTS = ("test_adversarial_example_is_real", "test_clever_below_distance")


def numbers_of_image_12(gate):
    """Everything that was measured of image 12, but whether it was stored."""
    found = {}
    for record in gate.results()["records"]:
        if record["about"].get("image") == 12:
            found[record["test"]] = {name: value for name, value in record["values"].items() if name != "stored"}
    return found


def start(gate, *arguments):
    return subprocess.Popen(
        gate.command(*arguments),
        cwd=gate.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A shell starts background jobs with interrupts ignored, and their children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  # no thread of ours forks
    )


def wait_for_batches(gate, process, count=1):
    """Wait until so many batches are stored and the run is in the middle of another."""
    deadline = time.time() + 120
    while len(list(gate.results_folder.rglob("*.safetensors"))) < count:
        assert process.poll() is None, process.stdout.read()
        assert time.time() < deadline, "no batch was stored"
        time.sleep(0.02)


def children(pid):
    """Process ids of the workers of a controller."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat") as file:
                    if int(file.read().rpartition(")")[2].split()[1]) == pid:
                        found.append(int(entry))
            except (FileNotFoundError, ProcessLookupError):
                continue
    return sorted(found)


FIRST: dict[str, dict] = {}


@pytest.fixture
def numbers(gate):
    """The numbers of image 12 of a whole run with two workers, the first of the runs to compare; run once."""
    if not FIRST:
        result = gate("-n2", *QUICK, "--results", "first")
        assert result.ret == 0, result.stdout.str()
        gate.results_folder = gate.folder / "first"
        FIRST.update(numbers_of_image_12(gate))
        gate.results_folder = gate.folder / "robustness-results"
    assert len(FIRST) == len(TESTS) * 2  # two models
    return FIRST


def test_same_numbers_whatever_is_selected_and_however_it_is_run(gate, numbers):
    """Bit for bit: no workers, other numbers of workers, one image, fewer images."""
    gate("-n0", *QUICK)
    assert numbers_of_image_12(gate) == numbers

    gate("-n2", *QUICK, "--fresh", "-k", "00012")
    assert numbers_of_image_12(gate) == numbers

    gate("-n0", *QUICK, "--fresh", "--images", "13", "-k", "robust-digits and 00012")
    part = numbers_of_image_12(gate)
    assert len(part) == len(TESTS)
    assert all(numbers[test] == values for test, values in part.items())


def test_interrupted_run_goes_on_where_it_stopped(gate, numbers):
    process = start(gate, "-n2", *QUICK)
    wait_for_batches(gate, process, count=3)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == pytest.ExitCode.INTERRUPTED, output
    assert gate.results()["verdict"] == "interrupted"
    kept = {file: file.stat().st_mtime_ns for file in gate.results_folder.rglob("*.safetensors")}
    assert len(kept) >= 3

    result = gate("-n2", *QUICK)
    assert result.ret == 0
    assert numbers_of_image_12(gate) == numbers
    assert all(file.stat().st_mtime_ns == before for file, before in kept.items()), "a stored batch was measured again"


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="finds the workers by /proc")
def test_killed_worker_ends_up_in_the_report_and_the_next_run_resumes(gate, numbers):
    process = start(gate, "-n2", *QUICK)
    wait_for_batches(gate, process, count=2)
    victim = children(process.pid)[0]
    os.kill(victim, signal.SIGKILL)
    output, _ = process.communicate(timeout=200)
    assert process.returncode == pytest.ExitCode.TESTS_FAILED, output
    content = gate.results()
    crashed = [record["test"] for record in content["records"] if record["outcome"] == "crashed"]
    assert len(crashed) == 1, output
    assert content["verdict"] == "fail"
    assert content["tests"]["missing"] == 0, "all other tests were run by the replacement"
    page = (gate.results_folder / "report.html").read_text()
    assert "crashed while running" in page
    assert f"{crashed[0]}::teardown" in page, "the crashed test is a row of its own"

    result = gate("-n2", *QUICK)
    assert result.ret == 0, result.stdout.str()
    assert numbers_of_image_12(gate) == numbers


def test_second_run_reads_everything(gate):
    few = ("-n0", "--quick", "--images", "5", "--batch-size", "5", "--norms", "linf", "-k", "00000 or 00001")
    gate(*few)
    first = gate.results()
    assert first["measurements"] == {"measured": 8, "stored": 0}
    gate(*few)
    second = gate.results()
    assert second["measurements"] == {"measured": 0, "stored": 8}
    assert second["passes"] == first["passes"]


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_violated_threshold_fails_the_gate(measured_gate, workers):
    gate = measured_gate
    (gate.folder / "strict.toml").write_text('[robust_accuracy.digits]\nlinf = { "0.1" = 0.99 }\n')
    result = gate(workers, *WHOLE, "--thresholds", "strict.toml")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [
            "*robust keeps the label of * of 20 images up to linf 0.1 (*%), expected 99.0% or more*",
            "FAIL (quick): robust*",
        ]
    )
    content = gate.results()
    assert content["verdict"] == "fail"
    (row,) = [row for row in content["properties"] if row["outcome"] == "failed"]
    assert (row["property_name"], row["norm"], row["epsilon"]) == ("test_robust_accuracy", "linf", "0.1")
    assert "measuring" not in result.stdout.str(), "progress is for terminals"


def test_worse_model_does_not_pass(measured_gate):
    result = measured_gate("-n0", *WHOLE, "--model", "standard", "--against", "robust")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*median linf distance * of standard, expected more than * of robust*"])


def test_model_against_itself_is_not_compared(measured_gate):
    gate = measured_gate
    result = gate("-n0", *WHOLE, "--model", "robust", "--against", "robust")
    assert result.ret == 0
    content = gate.results()
    assert "Not compared: no other model than robust was given (--against)." in content["notes"]
    compared = [row for row in content["properties"] if "candidate_beats_reference" in row["property_name"]]
    assert [row["outcome"] for row in compared] == ["skipped"] * 5


def spoil(gate, file, code, wrong):
    """Replace some code of the copied suite."""
    source = (gate.folder / file).read_text()
    assert code in source, "this test spoils nothing"
    (gate.folder / file).write_text(source.replace(code, wrong))


def enlarge_scores(gate, metric):
    """Make every score of a metric 3.5 times too large, on its way out of the store."""
    row = "columns[column][position - first]"
    code = "{name: values[position - first] for name, values in columns.items()}"
    factor = f"(3.5 if (metric.name, column) == ('{metric}', 'score') else 1)"
    spoil(
        gate,
        "robustness_tests/harness/measurements.py",
        code,
        f"{{column: {row} * {factor} for column in columns}}",
    )


def test_single_violation_is_expected_and_too_many_fail(measured_gate):
    """CLEVER scores made three times too large: many images show it, one test per model asserts the share."""
    gate = measured_gate
    enlarge_scores(gate, "clever")
    result = gate("-n0", *WHOLE, "robustness_tests/test_bounds.py")
    outcomes = [record["outcome"] for record in gate.results()["records"] if "image" in record["about"]]
    assert outcomes.count("xfailed") > 5
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*CLEVER is not above the adversarial linf distance for *%*expected 95.0% or more*"])


def test_anchored_score_above_the_distance_is_a_bug_of_the_suite(measured_gate):
    enlarge_scores(measured_gate, "anchored_clever")
    result = measured_gate("-n0", *WHOLE, "-k", "anchored")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*anchored CLEVER is above the adversarial linf distance for image *"])


def test_perturbation_within_too_large_a_radius_is_found_and_shrunk(measured_gate):
    gate = measured_gate
    (gate.folder / "loose.toml").write_text("[clever_radius]\nfactor = 1.0\n")
    spoil(gate, "robustness_tests/test_clever.py", "score.image: factor *", "score.image: 8 * factor *")
    result = gate("-n0", *WHOLE, "--thresholds", "loose.toml", "-k", "no_perturbation")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*a linf perturbation of * values, 1.0 times as large as the CLEVER score*"])


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_fixtures_are_there_for_tests_of_the_user(gate, workers):
    folder = gate.folder / "mine" / "deep"
    folder.mkdir(parents=True)
    (folder / "test_mine.py").write_text(
        "import pytest\n"
        "def test_seven(candidate, reference, adversarial_distance, clever, thresholds, measured):\n"
        "    ours = adversarial_distance(candidate, 7, norm='l2')\n"
        "    measured({'ratio': ours.distance / adversarial_distance(reference, 7, norm='l2').distance})\n"
        "    assert clever(candidate, 7, norm='l2').score < ours.distance\n"
        "    assert thresholds.confidence == 0.95\n"
        "def test_reserved(candidate, measured):\n"
        "    with pytest.raises(ValueError, match='expected another name'):\n"
        "        measured(norm='l2')\n"
        "    measured(p_value=0.5)\n"
        "@pytest.mark.parametrize('norm', [object()], ids=['odd'])\n"
        "def test_odd_parameter(candidate, norm): pass\n"
        "def test_each(model, norm, image, adversarial_distance):\n"
        "    assert adversarial_distance(model, image, norm=norm).distance >= 0\n"
        "@pytest.mark.parametrize('norm', ['mine'])\n"
        "@pytest.mark.parametrize('image', ['theirs'])\n"
        "def test_words_of_the_user(norm, image):\n"
        "    assert (norm, image) == ('mine', 'theirs')\n"
    )
    documented = re.search(r"```python\n(from metrics .*?)```", (ROOT / "docs/extending.md").read_text(), re.DOTALL)
    (folder / "test_documented.py").write_text(documented[1])
    result = gate(workers, "--quick", "--images", "8", "--norms", "l2", str(folder))
    result.assert_outcomes(passed=3 + 16 + 1 + 1 + 16)
    assert result.ret == 0
    tests = [record["test"] for record in gate.results()["records"]]
    assert "mine/deep/test_mine.py::test_each[standard-digits-l2-00007]" in tests
    assert gate.values("test_seven")["ratio"] > 0


def test_lost_tests_fail_the_run(gate):
    (gate.folder / "test_lost.py").write_text("def test_a(candidate): pass\ndef test_b(candidate): pass\n")
    conftest = gate.folder / "conftest.py"
    conftest.write_text(
        conftest.read_text()
        + "\ndef pytest_runtest_protocol(item, nextitem):\n    return True if item.name == 'test_b' else None\n"
    )
    result = gate("-n0", "test_lost.py")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["Incomplete: 1 of 2 tests were not reported."])


def test_run_without_tests_about_models_leaves_no_report(gate):
    (gate.folder / "test_other.py").write_text("def test_other(): pass\n")
    result = gate("-n0", "test_other.py")
    assert result.ret == 0
    assert not (gate.results_folder / "report.html").exists()
    assert not (gate.results_folder / "results.json").exists()


def test_progress_is_shown_on_a_terminal(gate):
    pty, termios = (pytest.importorskip(name, reason="needs pseudo-terminals") for name in ("pty", "termios"))
    command = gate.command("-n2", *WHOLE, "-k", "clever_below_distance")
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(gate.folder)
        os.execv(sys.executable, command)
    termios.tcsetwinsize(terminal, (40, 120))
    output = b""
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:
            break
        if not piece:
            break
        output += piece
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    text = output.decode()
    assert re.search("measuring: 0 of [1-9][0-9]? batches", text), text
    assert " left" in text
    assert re.search(r"[1-9][0-9,]+ forward passes", text)
    assert "PARTIAL (quick): robust against standard" in text


CERTIFIED = ("--images", "3", "--batch-size", "3", "--quick", "--norms", "linf", "--certify", "auto")


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_a_small_network_has_exact_distances(gate, workers):
    """Certified, exact and adversarial distances of each image, in the records and in the report.

    At the default effort: the five seconds that the quick one gives to an exact distance may not do on a busy machine.
    """
    whole = [word for word in CERTIFIED if word != "--quick"]
    result = gate(workers, *whole, "--model", "mlp", "--against", "mlp", "robustness_tests/test_certified_distance.py")
    assert result.ret in (0, 1), "four images may be too few for a share"
    bracket = gate.values("test_exact_within_bracket[mlp-digits-linf]")
    assert bracket["value"] == 1
    assert 0.5 <= bracket["certified_ratio"] <= 1 <= bracket["attack_ratio"] <= 1.05
    image = gate.values("test_certified_below_distance[mlp-digits-linf-00002]")
    assert 0 < image["certified"] <= image["exact"] <= image["distance"]
    assert "exact within bracket" in (gate.results_folder / "report.html").read_text()


def test_certify_off_and_require(gate):
    """Off: nothing is certified, and the tests say so. Require: no certificate is a failure, with the reason."""
    module = "robustness_tests/test_certified_distance.py"
    gate(*CERTIFIED[:-1], "off", module)
    outcomes = {record["outcome"] for record in gate.results()["records"]}
    assert outcomes == {"skipped"}
    assert gate.results()["measurements"] == {"measured": 0, "stored": 0}
    spoil(
        gate,
        "robustness_tests/harness/fixtures/certified_distance.py",
        '"tolerance": 0.1, "budget": 2e10',
        '"budget": 10.0',
    )
    assert gate(*CERTIFIED, module).ret == 0
    skipped = [record for record in gate.results()["records"] if record["outcome"] == "skipped"]
    assert any("too large for the budget" in record["message"] for record in skipped)
    assert gate(*CERTIFIED[:-1], "require", module).ret == 1
    failed = [record for record in gate.results()["records"] if record["outcome"] == "failed"]
    assert failed
    assert all("no certificate" in record["message"] for record in failed)


def test_certified_above_the_distance_is_a_bug_of_the_suite(gate):
    spoil(gate, "metrics/certified_distance.py", "bracket.lower, torch.nan)", "5 * bracket.lower, torch.nan)")
    assert (
        gate(*CERTIFIED, "--model", "mlp", "--against", "mlp", "robustness_tests/test_certified_distance.py").ret == 1
    )
    failed = {record["about"]["property"] for record in gate.results()["records"] if record["outcome"] == "failed"}
    assert {"test_certified_below_distance", "test_no_perturbation_within_certified_radius"} <= failed


def test_schema_of_results(whole_run):
    """Fields that other programs read; a change of their meaning raises the schema number."""
    text = (whole_run / "results.json").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    content = json.loads(text)
    assert content["schema"] == SCHEMA
    assert content["run"]["seed"] == 0
    assert content["thresholds"]["clean_accuracy"] == 0.98
    assert content["versions"]["torch"]
    assert content["exit_status"] == 0
    assert content["passes"]["forward"] > 0
    record = next(record for record in content["records"] if "test_clever_below" in record["test"])
    assert record.keys() == {"test", "outcome", "message", "seconds", "about", "values"}
    assert record["about"].keys() == {"property", "concern", "feeds", "model", "norm", "image"}
    assert {"clever", "lower", "upper", "raw", "radius", "distance", "status", "target"} <= record["values"].keys()


def test_masked_gradients_fail_the_gate(gate):
    """The bundled networks with rounded logits: no gradient is left, and Square finds nearer points."""
    file = gate.folder / "robustness_tests/subjects/wide_resnet.py"
    code = file.read_text()
    returned = "return self.fc(pooled)"
    assert returned in code
    file.write_text(code.replace(returned, "return (self.fc(pooled) / 0.5).round() * 0.5"))
    result = gate("-n2", "--images", "8", "--norms", "linf", "-k", "gradients_are_informative")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*without gradients, Square changed the label of * The gradients are masked*"])
    values = gate.values("test_gradients_are_informative[robust-digits-linf]")
    assert values["value"] < values["threshold"] == 1
    assert values["found_nearer"]


def test_informative_gradients_hold_in_l1(gate):
    """Whole runs have the other norms."""
    result = gate("-n2", "--quick", "--norms", "l1", "-k", "gradients_are_informative")
    result.assert_outcomes(passed=2)
    assert gate.values("test_gradients_are_informative[robust-digits-l1]")["forward"] > 100


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_the_pair_for_cifar10_is_bundled(gate, workers):
    """Another dataset by its name: its own models, radius, thresholds and class names."""
    few = ("--quick", "--images", "4", "--batch-size", "4", "--norms", "linf", "-k", "is_real or clean or beats")
    result = gate(workers, "--dataset", "cifar10-sample", *few)
    result.stdout.fnmatch_lines(["robustness: robust against standard*on cifar10-sample*"])
    clean = gate.values("test_clean_accuracy")
    assert (clean["images"], clean["threshold"]) == (100, 0.82)
    assert clean["value"] == pytest.approx(0.88)
    ours, theirs = (
        gate.values(f"test_adversarial_example_is_real[{name}-cifar10-sample-linf-00000]")
        for name in ("robust", "standard")
    )
    assert 0.5 * theirs["distance"] < theirs["distance"] < ours["distance"] < 0.03
    assert gate.results()["run"]["class_names"][:2] == ["airplane", "automobile"]


EXAMPLES = [
    line.split()[1:]
    for file in ("examples/cifar10_study/README.md", "docs/study.md")
    for line in (ROOT / file).read_text().splitlines()
    if line.startswith("pytest ")
]


@pytest.mark.parametrize("command", EXAMPLES, ids=" ".join)
def test_examples_run_with_nothing_beside_the_checkout(gate, command):
    """The commands of the documents, on fewer images and tests."""
    shutil.copytree(ROOT / "examples", gate.folder / "examples")
    few = ("-n0", "--quick", "--images", "4", "--batch-size", "4", "--norms", "linf", "-k", "is_real or clean")
    result = gate(*command, *few)
    assert result.ret == 0, result.stdout.str()
    results = next(word.partition("=")[2] for word in command if word.startswith("--results="))
    content = json.loads((gate.folder / results / "results.json").read_text())
    assert content["verdict"] == "partial"
    assert content["run"]["dataset"] == "cifar10-sample"
