"""The same command with other numbers of threads and on other processors: how far its numbers may differ."""

import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from meta_tests.conftest import Gate, environment

ONE = ("-n0", "--quick", "--model=standard", "--against=standard", "--images=8", "--certify=off", "--shard=1/1")
MACHINES = {
    "this one": {"OMP_NUM_THREADS": "1"},
    "two threads": {"OMP_NUM_THREADS": "2"},
    "AVX2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "AVX2"},
    "no AVX": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "SSE4_2"},
}
COLUMNS = ("distance", "score", "radius")
MEDIAN, LARGE = 1e-5, 1e-3
"""Relative differences by rounding. For one image in eight, an attack may end in another local minimum."""


def measured_on(folder, machine):
    """Start the measurement of some batches on a machine, and what reads the batches when it has ended."""
    process = subprocess.Popen(
        Gate.command(*ONE, f"--results={machine}"), cwd=folder, env=environment() | MACHINES[machine], stdout=sys.stderr
    )

    def read():
        assert process.wait(300) == 0
        store = folder / machine / "measurements"
        # The digest at the end of the name is also of the kind of device.
        files = {f"{path.parent.relative_to(store)}/{path.name[:-29]}": path for path in store.rglob("*.safetensors")}
        return {name: load_file(path) for name, path in files.items()}

    return read


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="instruction sets of other processors have other names")
def test_numbers_on_other_machines(gate):
    reads = {machine: measured_on(gate.folder, machine) for machine in MACHINES}
    batches = {machine: read() for machine, read in reads.items()}
    here = batches.pop("this one")
    assert {name.partition("/")[0] for name in here} >= {"adversarial_distance", "clever", "smoothed_radius"}
    for machine, there in batches.items():
        assert there.keys() == here.keys()
        for name in here:
            for column in here[name].keys() & COLUMNS:
                assert_near(here[name][column], there[name][column], exact=machine == "two threads")


def assert_near(one, other, *, exact):
    finite = one.isfinite()
    assert torch.equal(finite, other.isfinite())
    difference = ((one - other).abs() / one.abs().clamp_min(1e-12))[finite].double()
    if len(difference):
        assert float((difference > (0 if exact else LARGE)).double().mean()) <= (0 if exact else 1 / 8)
        assert float(difference.median()) <= MEDIAN
