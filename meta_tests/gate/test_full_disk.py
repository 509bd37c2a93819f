"""A disk without space for the reports. A limit of the size of files stands for it, which needs no rights."""

import pytest

from meta_tests.conftest import WHOLE

LIMITED = """
import resource

resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
"""


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
@pytest.mark.parametrize(("limit", "missing"), [(50_000, ["results.json", "report.html"]), (300_000, ["report.html"])])
def test_the_verdict_is_said_and_the_exit_status_is_3(measured_gate, workers, limit, missing):
    measured_gate.results_folder.mkdir(exist_ok=True)
    (measured_gate.results_folder / "results.json").write_text("that of an earlier run")
    conftest = measured_gate.folder / "conftest.py"
    conftest.write_text(conftest.read_text() + LIMITED.format(limit=limit))
    result = measured_gate(workers, *WHOLE)
    assert result.ret == pytest.ExitCode.INTERNAL_ERROR
    result.stdout.fnmatch_lines(["*: File too large. The exit status is 3.", "PASS (quick): robust against *"])
    assert not any("Traceback" in line for line in (*result.outlines, *result.errlines))
    assert ("results.json" in missing) is not (measured_gate.results_folder / "results.json").is_file()
    assert ("results.json" in missing) is not any(line.startswith("records: ") for line in result.outlines)
    assert any("a report is not whole" in line for line in result.outlines)
