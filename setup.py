"""What is installed: `robustness_tests`, and the other packages below `robustness_gate`.

In a checkout they are called `metrics` and `reports`. Modules of such names may well be the user's own, so that the
wheel has them as `robustness_gate.metrics` and `robustness_gate.reports`, their imports rewritten. An editable install
is for work on the suite itself, and leaves the names as they are. All else is in pyproject.toml.
"""

import re
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

PARENT = "robustness_gate"
MAPPED = ("metrics", "reports")
IMPORT = re.compile(rf"^(\s*(?:>>> )?)(from|import) ({'|'.join(MAPPED)})\b(.*)$", re.MULTILINE)


def rewritten(source: str) -> str:
    """Source with imports of the mapped packages by their new names."""

    def by_new_name(found: re.Match[str]) -> str:
        start, word, package, rest = found.groups()
        alias = f" as {package}" if word == "import" else ""
        return f"{start}{word} {PARENT}.{package}{rest}{alias}"

    return IMPORT.sub(by_new_name, source)


class MappedBuild(build_py):
    """Builds the packages, and then moves those that are mapped."""

    def run(self) -> None:
        """Build, move, rewrite."""
        super().run()
        if self.editable_mode:
            return
        built = Path(self.build_lib)
        parent = built / PARENT
        # What an earlier build has left.
        shutil.rmtree(parent, ignore_errors=True)
        parent.mkdir(parents=True)
        init = '"""Robustness of image classifiers: the metrics and reports of robustness-gate."""\n'
        (parent / "__init__.py").write_text(init, encoding="utf-8")
        for package in MAPPED:
            shutil.move(built / package, parent / package)
        for file in built.rglob("*.py"):
            file.write_text(rewritten(file.read_text(encoding="utf-8")), encoding="utf-8")


setup(cmdclass={"build_py": MappedBuild})
