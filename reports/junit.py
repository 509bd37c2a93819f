"""JUnit XML: options and verdict of the run as properties of the test suite, and records as properties of tests."""

import pytest
from _pytest.junitxml import xml_key

from reports.results import Results
from reports.results_json import RESULTS


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Add the properties before pytest writes the file."""
    results, xml = session.config.stash.get(RESULTS, None), session.config.stash.get(xml_key, None)
    if results is not None and xml is not None:
        for name, value in suite_properties(results).items():
            xml.add_global_property(f"robustness.{name}", value)


def suite_properties(results: Results) -> dict[str, str]:
    """The properties by name, without the prefix "robustness."."""
    run = results.run
    return {
        "schema": str(results.schema),
        "verdict": results.verdict,
        "model": results.model,
        "against": results.against or "",
        "dataset": str(run["dataset"]),
        "images": str(run["images"]),
        "norms": ",".join(results.norms),
        "effort": str(run["effort"]),
        "seed": str(run["seed"]),
        "commit": results.commit or "",
        "baseline": results.baseline["file"] if results.baseline else "",
        "forward": str(results.passes["forward"]),
        "backward": str(results.passes["backward"]),
    }
