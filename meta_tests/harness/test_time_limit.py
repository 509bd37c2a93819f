"""`--timeout-per-batch`: a batch that takes too long is an error of its own tests, and of no others."""

import signal
import time

import pytest

from robustness_tests.harness.option_values import seconds
from robustness_tests.harness.signals import BatchTimeoutError, at_most

SLOW = """
import time

from robustness_tests.subjects.catalog import MODELS
from robustness_tests.subjects.datasets import digits
from robustness_tests.subjects.models import bundled

SLOW = digits("test").images[7]


def net():
    network = bundled(MODELS["digits", "robust"])
    network.register_forward_hook(linger)
    return network


def linger(network, inputs, outputs):
    points = inputs[0]
    if points.requires_grad and (points - SLOW).flatten(1).abs().amax(dim=1).min() < 0.25:
        time.sleep(0.5)
"""
OPTIONS = ("--quick", "--images", "10", "--batch-size", "5", "--norms", "linf", "--certify", "off")


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_a_slow_batch_is_an_error_and_the_others_are_measured(gate, workers):
    (gate.folder / "net.py").write_text(SLOW)
    run = ("--model", "net.py:net", "--against", "net.py:net", *OPTIONS, "--timeout-per-batch", "2")
    tests = "robustness_tests/test_adversarial_distance.py", "robustness_tests/test_accuracy.py"
    result = gate(workers, *run, *tests)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    results = gate.results()
    of_images = {
        record["about"]["image"]: record
        for record in results["records"]
        if record["about"]["property"] == "test_adversarial_example_is_real"
    }
    assert [of_images[image]["outcome"] for image in range(5, 10)] == ["error"] * 5
    waits = sum(of_images[image]["seconds"] >= 2 for image in range(5, 10))
    assert 1 <= waits <= 2, "once in a process, not once for each of the batch's tests"
    assert {of_images[image]["outcome"] for image in range(5)} == {"passed", "skipped"}, "one is misclassified"
    assert of_images[7]["message"] == (
        "BatchTimeoutError: adversarial distance of net.net in linf, images 5 to 9, took longer than 2 s: "
        "raise --timeout-per-batch, or lower --batch-size"
    )
    (row,) = [row for row in results["properties"] if row["property_name"] == "test_adversarial_example_is_real"]
    assert (row["outcome"], row["value"]) == ("error", 1), "of those that could be tested"
    assert not any(row["outcome"] == "failed" for row in results["properties"]), "a time says nothing about a property"
    assert any(line.startswith("Could not be tested, because of errors: ") for line in result.outlines)
    assert not any(line.startswith("Violated") for line in result.outlines)
    page = (gate.results_folder / "report.html").read_text()
    assert "could not be tested: BatchTimeoutError" in page


def test_a_block_is_ended():
    handler = signal.getsignal(signal.SIGALRM)
    start = time.monotonic()
    message = r"^this took longer than 0.2 s: raise --timeout-per-batch"
    with pytest.raises(BatchTimeoutError, match=message), at_most(0.2, "this"):
        time.sleep(10)
    assert time.monotonic() - start < 5
    assert signal.getsignal(signal.SIGALRM) is handler
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_without_a_limit_and_within_it():
    for limit in (None, 60.0):
        with at_most(limit, "this"):
            pass
        assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_a_timer_of_somebody_else_goes_on():
    handler = signal.signal(signal.SIGALRM, lambda *_: None)
    try:
        signal.setitimer(signal.ITIMER_REAL, 100)
        with at_most(60, "this"):
            assert signal.getitimer(signal.ITIMER_REAL)[0] <= 60
        assert 90 < signal.getitimer(signal.ITIMER_REAL)[0] <= 100
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)


def test_seconds():
    assert (seconds(""), seconds("2.5"), seconds("1e3")) == (None, 2.5, 1000)
    for text in ("0", "-1", "nan", "inf", "a minute"):
        with pytest.raises(ValueError, match=f"got {text!r}, expected a positive number of seconds"):
            seconds(text)
