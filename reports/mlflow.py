"""Log a run to MLflow: `python -m reports mlflow results.json`. Nothing is computed: the numbers are those of the file.

The run goes to the server or folder of `--tracking-uri`, or where MLflow's own settings say.
"""

import argparse
import importlib
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reports.junit import suite_properties
from reports.page import page
from reports.results import DAMAGED, Results, headline, load_results

FIGURES = ("value", "lower", "upper", "reference_value", "p_value", "threshold", "baseline_value")
"""The figures of a property that are logged, where it has them."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Log the run, and print its id. A bad file, or a missing package, is a one-line error."""
    parser = argparse.ArgumentParser(prog="python -m reports mlflow", description=__doc__.partition("\n\n")[0])
    parser.add_argument("results", help="results.json of a run")
    parser.add_argument("--experiment", default="robustness", help="name of the experiment; default: robustness")
    parser.add_argument("--tracking-uri", help="server or folder; default: MLflow's own setting")
    given = parser.parse_args(arguments)
    try:
        mlflow = importlib.import_module("mlflow")
    except ImportError:
        parser.error("got no package mlflow, expected it to be installed: pip install 'robustness-gate[mlflow]'")
    path = Path(given.results)
    try:
        results = load_results(path, given.results)
        report = page(results, given.results)
        values, properties = metrics_of(results), suite_properties(results)
    except ValueError as error:
        parser.error(str(error))
    except DAMAGED as error:
        parser.error(
            f"got a results.json that is damaged ({type(error).__name__}: {error}), expected one of this suite"
        )
    if given.tracking_uri:
        mlflow.set_tracking_uri(given.tracking_uri)
    mlflow.set_experiment(given.experiment)
    with mlflow.start_run(run_name=headline(results)) as run:
        mlflow.log_params({name: value for name, value in properties.items() if name not in ("forward", "backward")})
        mlflow.set_tags({"verdict": results.verdict, "notes": "; ".join(results.notes)})
        mlflow.log_metrics(values)
        mlflow.log_artifact(str(path))
        mlflow.log_text(report, "report.html")
    sys.stdout.write(f"{run.info.run_id}\n")


def metrics_of(results: Results) -> dict[str, float]:
    """The figures of all properties by name: `robust_accuracy/robust/linf/0.05/value`, for example.

    Also the passes, the seconds, and the number of properties by outcome.
    """
    found: dict[str, float] = {"seconds": results.seconds}
    found |= {f"passes/{name}": float(count) for name, count in results.passes.items()}
    for row in results.properties:
        found[f"properties/{row.outcome}"] = found.get(f"properties/{row.outcome}", 0.0) + 1
        place = [row.property_name.removeprefix("test_"), row.model, row.norm, row.epsilon]
        name = "/".join(_allowed(part) for part in place if part)
        for figure in FIGURES:
            value: Any = getattr(row, figure)
            if isinstance(value, int | float):
                found[f"{name}/{figure}"] = float(value)
    return found


def _allowed(part: str) -> str:
    """A part of a name with the characters that MLflow allows."""
    return re.sub(r"[^\w.-]", "_", part, flags=re.ASCII)
