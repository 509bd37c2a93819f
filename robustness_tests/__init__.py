"""The properties, which are tests of a model, and the harness that measures the numbers for them."""

from typing import Any


def __getattr__(name: str) -> Any:
    """`from robustness_tests import Classifier`, without importing torch before."""
    if name == "Classifier":
        from robustness_tests.subjects.classifier import Classifier  # noqa: PLC0415

        return Classifier
    raise AttributeError(f"module 'robustness_tests' has no attribute {name!r}")
