"""Settings of torch while something is measured: one thread, no TF32, deterministic kernels; and back afterwards."""

import pytest
import torch

from robustness_tests.subjects.reproducible import device_kind, reproducible, resolve_device


def settings():
    cudnn = torch.backends.cudnn
    return (
        torch.get_num_threads(),
        torch.backends.cuda.matmul.allow_tf32,
        cudnn.allow_tf32,
        cudnn.deterministic,
        cudnn.benchmark,
        torch.get_default_dtype(),
    )


def test_settings_are_made_and_taken_back():
    torch.set_num_threads(2)
    torch.set_default_dtype(torch.float64)
    before = settings()
    with reproducible():
        assert settings() == (1, False, False, True, False, torch.float32)
    assert settings() == before
    with pytest.raises(ZeroDivisionError), reproducible():
        raise ZeroDivisionError
    assert settings() == before
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float32)


def test_device_by_name():
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert device_kind(torch.device("cpu")).startswith("cpu ")
