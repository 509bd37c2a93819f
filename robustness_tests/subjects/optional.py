"""Packages that only some forms of models and data need."""

import importlib
from typing import Any

from robustness_tests.subjects.objects import one_line


def optional(module: str, install: str) -> Any:
    """Import a module.

    Args:
        module: its name.
        install: the extra of this project that installs it.

    Raises:
        ValueError: if it is not installed, or cannot be imported. The message says what to install.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f"got no package {module.partition('.')[0]!r} ({one_line(error)}), expected it for this form: pip install "
            f"'robustness-gate[{install}]', or the packages of this extra in pyproject.toml"
        ) from error
