"""All that needs a GPU, in six minutes: `python benchmarks/gpu.py`, with the root in PYTHONPATH.

(Not `cuda.py`: beside a script of this name, torch would import it in place of its own package `cuda`.)
It needs nothing beside the checkout, prints tables, writes gpu.json, says which part failed, and goes on:

numbers   every metric on the CPU and on the GPU, the same seeds: statuses, differences, twice the same bits
memory    a capped allocator halves batches and changes no number
gate      `pytest -n 2 --model robust` on the GPU: verdict and time; `-n 0` against `-n 2`
precision passes per second in TF32 and bfloat16, and the distances after a search in them
speed     passes per second inside each metric against bare passes, synchronisations and kernels for each pass
estimate  the time of a gate for a pair of WideResNet-28-10, from what was measured

`--device cpu` rehearses it without a GPU, on smaller networks.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

import torch

from benchmarks.arithmetic import precision
from benchmarks.subjects import subject
from benchmarks.tables import header, row
from metrics import adversarial_distance, anchored_clever, certified_distance, clever, noise_accuracy, smoothed_radius
from metrics.precision import PRECISIONS, arithmetic, full_precision
from robustness_tests.subjects.reproducible import reproducible
from robustness_tests.subjects.wide_resnet import WideResNet

ROOT = Path(__file__).parents[1]
NETWORKS = {"robust": ({"linf": 0.25, "l2": 1.25}, 8), "cnn_a_adv": ({"linf": 0.02, "l2": 0.5}, 8)}
"""Networks whose numbers are compared: the radius of CLEVER's ball, and the number of images."""

TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-2}
"""Relative difference of the median between CPU and GPU. An attack amplifies rounding, so single images may differ."""


def columns(network, images, labels, radii):
    """By name: status (or None), and the numbers of each image."""
    for norm, radius in radii.items():
        found = adversarial_distance(network, images, labels, norm=norm)
        yield f"distance, {norm}", found.status, found.distance
        few = {"blocks": 10, "block_size": 8, "batch_size": 200}
        scores = clever(network, images, labels, norm=norm, radius=radius, **few)
        yield f"CLEVER, {norm}", scores.status, scores.score
        anchored = anchored_clever(network, images, labels, found.adversarial, scores, norm=norm)
        yield f"anchored CLEVER, {norm}", anchored.status, anchored.score
        proved = certified_distance(network, images[:2], labels[:2], norm=norm)
        yield f"certified, {norm}", proved.status, proved.distance
        noisy = noise_accuracy(network, images, labels, norm=norm, epsilons=[radius])
        yield f"noise accuracy, {norm}", None, noisy.accuracy[:, 0]
    votes = smoothed_radius(network, images[:2], labels[:2], sigma=0.25, samples=1_000)
    yield "smoothed radius, l2", votes.status, votes.radius


def numbers(device):
    """The same metric on both devices."""
    header("network", "dtype", "metric", "statuses", "median GPU / CPU - 1", "largest", "same bits twice", "verdict")
    rows = []
    for name, (radii, count) in NETWORKS.items():
        network, images, labels = subject(name, count)
        for dtype, tolerance in TOLERANCES.items():
            print(f"({name}, {dtype})", file=sys.stderr, flush=True)
            there = torch.device(device)
            runs = [
                list(columns(network.to(where, dtype), images.to(where, dtype), labels.to(where), radii))
                for where in (torch.device("cpu"), there, there)
            ]
            network.to("cpu", torch.float32)
            for (what, status, on_cpu), (_, other, on_gpu), (_, _, again) in zip(*runs, strict=True):
                same = status is None or bool((status.cpu() == other.cpu()).all())
                ratio = (on_gpu.cpu().double() / on_cpu.double() - 1).nan_to_num(0.0, 0.0, 0.0)
                middle, largest = float(ratio.median().abs()), float(ratio.abs().max())
                bits = bool(((on_gpu == again) | (on_gpu.isnan() & again.isnan())).all())
                good = same and bits and middle <= tolerance
                rows.append({"network": name, "dtype": str(dtype), "metric": what, "median": middle, "good": good})
                verdict = "ok" if good else "WRONG"
                row(name, dtype, what, same, f"{middle:.1e}", f"{largest:.1e}", bits, verdict)
    return rows


def memory(device):
    """A batch that does not fit is halved, with the same numbers."""
    if device == "cpu":
        return "needs a GPU"
    network, images = big_network(device), torch.rand(256, 3, 32, 32, device=device)
    with torch.no_grad():
        labels = torch.cat([network(part).argmax(dim=1) for part in images.split(32)])
    small = noise_accuracy(network, images, labels, norm="l2", epsilons=[1.0], samples=4, batch_size=32)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(1.2e9 / total)
    try:
        large = noise_accuracy(network, images, labels, norm="l2", epsilons=[1.0], samples=4, batch_size=1024)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    differing = int((small.accuracy != large.accuracy).sum())
    header("capped at", "batch", "images that differ")
    row("1.2 GB", "1024, halved", differing)
    return {"differing": differing}


def gate(device):
    """The gate itself."""
    header("command", "verdict", "s", "forward", "backward")
    found, images = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for name, options in {
            "-n 2 --model robust": ("-n2",),
            "-n 0 --quick --images 20": ("-n0", "--quick", "--images=20"),
            "-n 2 --quick --images 20": ("-n2", "--quick", "--images=20"),
        }.items():
            results = Path(folder, name.replace(" ", ""))
            command = [sys.executable, "-m", "pytest", *options, "--model=robust", f"--device={device}", "-q"]
            start = time.perf_counter()
            done = subprocess.run(
                [*command, f"--results={results}"], cwd=ROOT, capture_output=True, text=True, check=False
            )
            seconds = time.perf_counter() - start
            if not (results / "results.json").exists():
                print(done.stdout[-2000:], done.stderr[-2000:])
                raise RuntimeError(f"no results of {name}")
            content = json.loads((results / "results.json").read_text())
            passes = content["passes"]
            row(name, content["verdict"], f"{seconds:.0f}", f"{passes['forward']:,}", f"{passes['backward']:,}")
            found.append({"command": name, "verdict": content["verdict"], "seconds": seconds, **passes})
            images[name] = [{**one, "stored_at": None} for one in content["images"]]
    same = images["-n 0 --quick --images 20"] == images["-n 2 --quick --images 20"]
    print(f"\n-n 0 and -n 2 give {'the same numbers' if same else 'DIFFERENT numbers'}")
    return {"runs": found, "same": same}


def big_network(device):
    """A WideResNet-28-10 with random weights; for a rehearsal a WideResNet-10-1."""
    torch.manual_seed(0)
    depth, width = (10, 1) if device == "cpu" else (28, 10)
    network = WideResNet(depth=depth, width=width, channels=3, classes=10, mean=(0.5,) * 3, std=(0.25,) * 3)
    return network.eval().requires_grad_(False).to(device)


def wait(device):
    """Until the GPU has done all that it was asked for."""
    if device != "cpu":
        torch.cuda.synchronize()


def bare(network, images, device, seconds=3.0):
    """Forward and backward passes per second, of the network alone."""
    passes = 0
    for timed in (False, True):
        wait(device)
        start = time.perf_counter()
        while time.perf_counter() - start < (seconds if timed else 0.5):
            inputs = images.clone().requires_grad_(True)
            torch.autograd.grad(network(inputs)[:, 0].sum(), inputs)
            passes += 2 * len(images) if timed else 0
            wait(device)
    return passes / (time.perf_counter() - start)


def speed(device):
    """Passes inside of the metrics against bare ones."""
    header("network", "batch", "metric", "passes per s", "bare / this", "synchronisations a pass of the batch", "busy")
    big = f"WideResNet-{'10-1' if device == 'cpu' else '28-10'}", big_network(device)
    cases = [(*big, (100, 3, 32, 32)), ("digits robust", subject("robust", 1)[0].to(device), (100, 1, 8, 8))]
    cases += [] if device == "cpu" else [(*big, (500, 3, 32, 32))]
    return [one for case in cases for one in speed_of(*case, device)]


def speed_of(name, network, shape, device):
    """Of one network and batch."""
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(device)
    batch, rows = len(images), []
    with torch.no_grad():
        labels = network(images).argmax(dim=1)
    few = {"blocks": 4, "block_size": 12, "batch_size": batch, "targets": "top-2"}
    runs = {
        "distance, linf": lambda: adversarial_distance(
            network, images, labels, norm="linf", effort="quick", batch_size=batch
        ),
        "CLEVER, l2": lambda: clever(network, images, labels, norm="l2", radius=0.5, **few),
    }
    with reproducible():
        alone = bare(network, images, device)
        row(name, batch, "bare", f"{alone:,.0f}", 1, "", "")
        for what, run in runs.items():
            run()
            wait(device)
            start = time.perf_counter()
            found = run()
            wait(device)
            seconds = time.perf_counter() - start
            rate = int(found.forward.sum() + found.backward.sum()) / seconds
            waits, busy = (None, None) if device == "cpu" else (synchronisations(run), busy_share(run))
            calls = float(found.forward.double().mean())
            shown = ("", "") if waits is None else (f"{waits / calls:.1f}", f"{busy:.0%}")
            row(name, batch, what, f"{rate:,.0f}", f"{alone / rate:.2f}", *shown)
            rows.append({"network": name, "batch": batch, "metric": what, "rate": rate, "bare": alone, "busy": busy})
    return rows


def synchronisations(run):
    """Operations for which torch says that the CPU waited."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(one.message) for one in caught)


def busy_share(run):
    """Time of all kernels, as a share of the time of the run under the profiler."""
    activities = [torch.profiler.ProfilerActivity.CUDA]
    start = time.perf_counter()
    with torch.profiler.profile(activities=activities) as profile:
        run()
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    return sum(one.self_device_time_total for one in profile.key_averages()) / 1e6 / seconds


IMAGES_OF_A_GATE = (100, 10_000)
PASSES = {"distance": (198, 182), "CLEVER": (962, 1_300)}
"""Forward and backward passes of an image, norm and model at the default effort; CLEVER as on networks for CIFAR-10."""


def estimate(device, rates):
    """Passes of a gate over passes per second."""
    rates = [one for one in rates if one["network"].startswith("WideResNet")]
    if not rates:
        return "needs the part speed"
    header("images", "what", "passes", "s")
    found = []
    for images in IMAGES_OF_A_GATE:
        for what, (forward, backward) in PASSES.items():
            rate = max(one["rate"] for one in rates if one["metric"].startswith(what))
            passes = images * 2 * 2 * (forward + backward)
            row(images, f"{what}, 2 models, 2 norms", f"{passes:,}", f"{passes / rate:,.0f}")
            found.append({"images": images, "what": what, "passes": passes, "seconds": passes / rate, "device": device})
    return found


def precisions(device):
    """Bare passes per second in each arithmetic, and what a search in it changes."""
    network, images, rates = big_network(device), torch.rand(100, 3, 32, 32, device=device), {}
    header("arithmetic", "passes per s", "over float32")
    for name in PRECISIONS:
        with full_precision(), arithmetic(name, torch.device(device)):
            rates[name] = bare(network, images, device)
        row(name, f"{rates[name]:,.0f}", f"{rates[name] / rates['float32']:.2f}")
    print()
    precision(device, 20)
    return rates


PARTS = {
    "numbers": lambda device, _: numbers(device),
    "memory": lambda device, _: memory(device),
    "speed": lambda device, _: speed(device),
    "precision": lambda device, _: precisions(device),
    "estimate": lambda device, found: estimate(device, found.get("speed", [])),
    "gate": lambda device, _: gate(device),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--seconds", type=float, default=360, help="no part is begun after this time")
    parser.add_argument("--output", type=Path, default=Path("gpu.json"))
    options = parser.parse_args()
    device, parts = options.device, options.parts.split(",")
    if unknown := [part for part in parts if part not in PARTS]:
        parser.error(f"--parts: got {unknown[0]!r}, expected some of {', '.join(PARTS)}")
    if device != "cpu" and not torch.cuda.is_available():
        parser.error(
            f"--device: got {device!r}, but torch sees no GPU; `--device cpu` rehearses the script without one"
        )
    if device == "cpu":
        torch.set_num_threads(1)
    name = torch.cuda.get_device_name() if device != "cpu" else "CPU, a rehearsal"
    print(f"{name}, torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    start, found, failed = time.perf_counter(), {"device": name, "torch": torch.__version__}, []
    for part in parts:
        if time.perf_counter() - start > options.seconds:
            failed.append(f"{part}: no time left")
            continue
        print(f"\n## {part}\n", flush=True)
        began = time.perf_counter()
        try:
            found[part] = PARTS[part](device, found)
        except Exception as error:  # noqa: BLE001  # a part that fails must not hide the others
            traceback.print_exc()
            failed.append(f"{part}: {type(error).__name__} {error}")
        print(f"\n{time.perf_counter() - began:.0f} s", flush=True)
        options.output.write_text(json.dumps({**found, "failed": failed}, indent=1, default=str))
    wrong = [one for one in found.get("numbers", []) if not one["good"]]
    print(
        f"\nfailed parts: {failed or 'none'}; wrong numbers: {len(wrong)}; {time.perf_counter() - start:.0f} s in all"
    )
    sys.exit(bool(failed or wrong))


if __name__ == "__main__":
    main()
