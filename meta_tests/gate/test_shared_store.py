"""Several gates on one store."""

import json
import subprocess

from meta_tests.conftest import WHOLE, Gate, environment


def records_in(folder):
    """Outcomes and values of the tests of a run, without what tells whether a number was stored."""
    records = json.loads((folder / "results.json").read_text())["records"]
    return [(record["test"], record["outcome"], {**record["values"], "stored": None}) for record in records]


def batches_in(store):
    return {path.relative_to(store): path.read_bytes() for path in store.rglob("*.safetensors")}


def test_two_gates_at_once_share_their_store(gate, whole_run):
    store = gate.folder / "shared"
    runs = [
        subprocess.Popen(
            Gate.command(workers, *WHOLE, f"--results={workers}", f"--store={store}"),
            cwd=gate.folder,
            env=environment(),
            stdout=subprocess.PIPE,
            text=True,
        )
        for workers in ("-n0", "-n2")
    ]
    outputs = [run.communicate(timeout=300)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], outputs
    assert not any("not stored" in output or "damaged" in output for output in outputs)
    assert batches_in(store) == batches_in(whole_run / "measurements")
    assert not list(store.rglob("*.partial"))
    assert records_in(gate.folder / "-n0") == records_in(gate.folder / "-n2") == records_in(whole_run)
    assert not (gate.folder / "-n0/measurements").exists()
