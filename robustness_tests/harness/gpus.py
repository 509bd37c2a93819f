"""The GPUs that may be used. Imports no torch."""

import functools
import os
import shutil
import subprocess


@functools.cache
def visible_gpus() -> tuple[str, ...]:
    """The GPUs that the caller lets us use: those of CUDA_VISIBLE_DEVICES; without it, all that the driver lists."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        # CUDA itself stops reading at the first -1.
        names = [name.strip() for name in listed.split(",")]
        return tuple(names[: names.index("-1")] if "-1" in names else [name for name in names if name])
    command = shutil.which("nvidia-smi")
    if command is None:
        return ()
    query = [command, "--query-gpu=index", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(answer.stdout.split())
