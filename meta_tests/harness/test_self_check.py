"""`pytest --self-check`: passes here, fails where the machine computes wrong, and leaves no report."""

import pytest

IN_BFLOAT16 = """
import torch

exact = torch.nn.functional.linear


def linear(images, weight, bias=None):
    return exact(images.bfloat16(), weight.bfloat16(), None if bias is None else bias.bfloat16()).to(images.dtype)


torch.nn.functional.linear = linear
"""


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_passes(gate, workers):
    done = gate("--self-check", workers, "--device", "cpu")
    done.assert_outcomes(passed=14)
    done.stdout.fnmatch_lines(["robustness: self-check, device cpu"])
    assert not [path for path in gate.results_folder.rglob("*") if path.is_file()]


def test_fails_where_products_are_in_bfloat16(gate):
    (gate.folder / "wrong.py").write_text(IN_BFLOAT16)
    done = gate("--self-check", "-p", "wrong")
    assert done.ret == 1
    done.stdout.fnmatch_lines(["*expected * within 0.01%*"])


def test_is_about_no_model_of_the_user(gate):
    gate("--self-check", "--model", "missing.py:net", "-k", "full_precision").assert_outcomes(passed=1, deselected=13)


def test_ini_file_of_a_project_does_not_matter(gate):
    """Its image size and thresholds are for its own data; and an ini file cannot replace the model of the gate."""
    ini = ("-o", "robustness_image_size=224", "-o", "robustness_thresholds=missing.toml")
    gate("--self-check", *ini, "-k", "full_precision").assert_outcomes(passed=1, deselected=13)
    done = gate("--quick", "-o", "robustness_self_check=true", "-k", "clean_accuracy and not worse")
    done.stdout.fnmatch_lines(["robustness: robust against standard on digits, 20 images, *"])


def test_other_tests_are_refused(gate):
    done = gate("--self-check", "robustness_tests/test_noise.py")
    assert done.ret == 4
    done.stderr.fnmatch_lines(
        ["ERROR: --self-check: got also 'robustness_tests/test_noise.py', expected no other tests"]
    )
