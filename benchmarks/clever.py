"""CLEVER on real networks: against the original at full size, against ART, against distances; what it costs.

    python benchmarks/clever.py original       # our scores beside the authors' fit of 500 x 1,024 samples
    python benchmarks/clever.py art            # passes and time beside ART's clever_u, at equal samples
    python benchmarks/clever.py distances      # share of CLEVER <= distance, ratio, anchored scores
    python benchmarks/clever.py walks          # walks beside random points: above the distance, ratio, passes
    python benchmarks/clever.py seeds          # how much a score changes from seed to seed
    python benchmarks/clever.py exact          # the same against exact distances of small networks
    python benchmarks/clever.py radius         # what the radius does
    python benchmarks/clever.py time           # overhead of a pass, share of the fits; ResNet-20 and small CNN
    python benchmarks/clever.py make-original  # draw the block maxima of clever_reference.npz anew: hours

`art` needs Adversarial Robustness Toolbox; all others need the suite alone.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from counting import Counting
from end_points import original
from scipy import stats
from subjects import subject
from tables import header, row

from metrics import Status, adversarial_distance, anchored_clever, clever
from metrics.clever_estimate import RunningScores
from metrics.extreme_value import end_point
from metrics.gradient_norms.sampling import perturbations
from metrics.norms import DUAL, vector_norm
from metrics.passes import margin
from metrics.statistics import share
from references.linear_pieces import exact_distance, network
from robustness_tests.harness.fixtures.clever import BUDGETS as CLEVER_BUDGETS

REFERENCE = Path(__file__).with_name("clever_reference.npz")
RADIUS = {
    "cnn_a_standard": {"linf": 0.01, "l2": 0.4, "l1": 20.0},
    "cnn_a_adv": {"linf": 0.035, "l2": 1.1, "l1": 40.0},
    "resnet20": {"linf": 0.01, "l2": 0.4, "l1": 20.0},
    "wide_standard": {"linf": 0.01, "l2": 0.25, "l1": 12.0},
    "wide_robust": {"linf": 0.02, "l2": 0.5, "l1": 20.0},
    "standard": {"linf": 0.25, "l2": 1.25, "l1": 6.0},
    "robust": {"linf": 0.25, "l2": 1.25, "l1": 6.0},
}
"""About twice the median adversarial distance; digits as in the catalogue."""

BLOCKS, BLOCK_SIZE = 500, 1024


def main():
    torch.set_num_threads(1)
    parts = {
        "original": against_original,
        "art": against_art,
        "distances": against_distances,
        "walks": walks_beside_points,
        "seeds": between_seeds,
        "exact": against_exact,
        "radius": radius,
        "time": passes_and_time,
        "make-original": make_original,
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=parts)
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--first", type=int, default=0, help="number of the first image, for walks and seeds")
    parser.add_argument("--norms", default="linf,l2,l1", help="for walks and seeds")
    parser.add_argument("--models", default="cnn_a_standard,cnn_a_adv,standard,robust")
    options = parser.parse_args()
    parts[options.part](options)


def against_original(options):  # noqa: ARG001  # one signature
    """The stored pairs: an image, its runner-up class, a sampling and a norm.

    Scores at the radius are left out: with the original's cloud those are all in L1, where it holds a small ball only.
    """
    header("sampling", "norm", "pairs", "finite", "tolerance", "median difference", "90th percentile",
           "rank correlation", "forward", "not finite: ours says so")  # fmt: skip
    stored = np.load(REFERENCE)
    found = []
    for pair, about, maxima in zip(stored["pairs"], stored["header"], stored["maxima"].astype(float), strict=True):
        found.extend(compared(str(pair), *about, maxima, tolerance) for tolerance in (0.05, 0))
    cases = [("ball", "linf"), ("ball", "l2"), ("original", "linf"), ("original", "l2"), ("", "")]
    for sampling, norm in cases:
        for tolerance in (0.05, 0):
            here = [
                one
                for one in found
                if sampling in one["sampling"] and norm in one["norm"] and one["tolerance"] == tolerance
            ]
            here = [one for one in here if not one["saturated"]]
            finite, rest = ([one for one in here if one["finite"] is kind] for kind in (True, False))
            theirs, ours = (np.array([one[whose] for one in finite]) for whose in ("theirs", "ours"))
            difference = np.abs(ours / theirs - 1)
            row(
                sampling or "all",
                norm or "all",
                len(here),
                len(finite),
                tolerance,
                f"{np.median(difference):.1%}",
                f"{np.quantile(difference, 0.9):.1%}",
                f"{stats.spearmanr(theirs, ours).statistic:.3f}",
                f"{np.mean([one['forward'] for one in here]):,.0f}",
                f"{sum(one['unclear'] for one in rest)} of {len(rest)}",
            )


def compared(pair, bound, size, target, maxima, tolerance):
    name, index, sampling, norm = pair.split("/")
    end, fitted = original(maxima)
    network, images, labels = subject(name, 16)
    one = slice(int(index), int(index) + 1)
    found = clever(
        network,
        images[one],
        labels[one],
        norm=norm,
        radius=float(size),
        targets=torch.tensor([[int(target)]]),
        sampling=sampling,
        tolerance=tolerance,
        seed=int(index),
        batch_size=256,
    )
    return {
        "sampling": sampling,
        "norm": norm,
        "tolerance": tolerance,
        "finite": bool(fitted) and not bool(end_point(torch.from_numpy(maxima)[None]).no_finite_endpoint),
        "theirs": bound / end,
        "ours": float(found.margin / found.lipschitz),
        "saturated": bool(found.saturated),
        "unclear": bool(found.no_finite_endpoint | found.degenerate_fit),
        "forward": int(found.forward),
    }


def make_original(options):
    """500 maxima of 1,024 dual norms each, the runner-up class, fresh samples; some 80 s a pair on one core."""
    pairs, about, kept = [], [], []
    for name in ("cnn_a_standard", "cnn_a_adv"):
        network, images, labels = subject(name, 16)
        network.requires_grad_(False)
        for index in range(min(options.images, 13)):
            logits = network(images[index : index + 1])
            target = logits.scatter(1, labels[index : index + 1, None], -torch.inf).argmax()
            bound = margin(logits, labels[index : index + 1])
            for sampling, norms in (("ball", ["linf"]), ("original", ["linf", "l2", "l1"]), ("ball", ["l2"])):
                size = RADIUS[name]["linf" if norms == ["linf"] else "l2"]
                generator = torch.Generator().manual_seed(1000 * index)
                maxima = {norm: [] for norm in norms}
                for _ in range(BLOCKS):
                    drawn = perturbations(sampling, norms[0], BLOCK_SIZE, images[index].shape, generator, images.dtype)
                    points = (images[index] + size * drawn).clamp(0, 1).requires_grad_(True)
                    outputs = network(points)
                    (gradient,) = torch.autograd.grad((outputs[:, labels[index]] - outputs[:, target]).sum(), points)
                    for norm in norms:
                        maxima[norm].append(float(vector_norm(gradient, DUAL[norm]).amax()))
                for norm in norms:
                    pairs.append(f"{name}/{index}/{sampling}/{norm}")
                    about.append([float(bound), size, int(target)])
                    kept.append(maxima[norm])
                print(pairs[-1], flush=True)
    tables = {"header": np.array(about, dtype=np.float32), "maxima": np.array(kept, dtype=np.float32)}
    np.savez_compressed(REFERENCE, pairs=np.array(pairs), **tables)


def against_art(options):  # noqa: ARG001  # one signature
    """Two images of the standard CNN and of digits; as many samples of each target in ART as of all in ours."""
    from art.estimators.classification import PyTorchClassifier  # noqa: PLC0415  # a peer is imported where it is used
    from art.metrics import clever_u  # noqa: PLC0415

    header("model", "image", "norm", "ART", "forward + backward", "s", "ours", "interval", "forward + backward", "s",
           "ART / ours")  # fmt: skip
    for name in ("cnn_a_standard", "robust"):
        network, images, labels = subject(name, 4)
        for one in range(2):
            for norm, order in (("linf", np.inf), ("l2", 2)):
                size, counting = RADIUS[name][norm], Counting(network)
                classifier = PyTorchClassifier(
                    counting, None, images.shape[1:], 10, clip_values=(0, 1), device_type="cpu"
                )
                np.random.seed(0)  # noqa: NPY002  # ART draws from there
                start = time.perf_counter()
                theirs = clever_u(classifier, images[one].numpy(), 56, 64, size, order, pool_factor=56, verbose=False)
                theirs_took = time.perf_counter() - start
                start = time.perf_counter()
                image, label = images[one : one + 1], labels[one : one + 1]
                ours = clever(network, image, label, norm=norm, radius=size, tolerance=0, batch_size=256)
                ours_took = time.perf_counter() - start
                row(
                    name,
                    one,
                    norm,
                    f"{theirs:.4f}",
                    f"{counting.forward_passes:,} + {counting.backward_passes:,}",
                    f"{theirs_took:.1f}",
                    f"{float(ours.score):.4f}",
                    f"{float(ours.lower):.4f} to {float(ours.upper):.4f}",
                    f"{int(ours.forward):,} + {int(ours.backward):,}",
                    f"{ours_took:.2f}",
                    f"{theirs_took / ours_took:.0f}",
                )


def against_distances(options):
    """Distances with the thorough effort; scores as `clever` gives them by default."""
    header("model", "norm", "images", "saturated", "CLEVER <= distance", "CLEVER / distance, median", "raw", "anchored",
           "end-point not shown", "blocks", "forward + backward")  # fmt: skip
    for name in options.models.split(","):
        network, images, labels = subject(name, options.images)
        seeds = list(range(len(images)))
        for norm in ("linf", "l2", "l1"):
            found = adversarial_distance(network, images, labels, norm=norm, effort="thorough", seed=seeds)
            scores = clever(network, images, labels, norm=norm, radius=RADIUS[name][norm], seed=seeds, batch_size=256)
            anchored = anchored_clever(network, images, labels, found.adversarial, scores, norm=norm)
            estimated = scores.status == Status.ESTIMATED
            below = share(int((scores.score <= found.distance)[estimated].sum()), int(estimated.sum()), 0.95)
            ratios = [(one.score / found.distance)[estimated].median() for one in (scores, anchored)]
            row(
                name,
                norm,
                int(estimated.sum()),
                int(scores.saturated.sum()),
                f"{below.value:.0%} ({below.lower:.0%} to {below.upper:.0%})",
                f"{ratios[0]:.2f}",
                f"{(scores.raw / found.distance)[estimated].median():.2f}",
                f"{ratios[1]:.2f}",
                f"{scores.no_finite_endpoint[estimated].double().mean():.0%}",
                f"{scores.blocks[estimated].double().mean():.0f}",
                f"{scores.forward.double().mean():,.0f} + {scores.backward.double().mean():,.0f}",
            )


BUDGETS = {
    "ball, 960 points": {"sampling": "ball", "blocks": 40, "block_size": 24},
    "walks, default": {"sampling": "walks", **CLEVER_BUDGETS["default"]},
    "walks, thorough": {"sampling": "walks", **CLEVER_BUDGETS["thorough"]},
}


def walks_beside_points(options):
    """Distances with the thorough effort. Use images that nothing was tuned on: --first 300."""
    header("model", "norm", "sampling", "images", "above the distance", "largest ratio", "CLEVER / distance, median",
           "half-width / score", "end-point not shown", "forward + backward")  # fmt: skip
    for name in options.models.split(","):
        network, images, labels = subject(name, options.images, options.first)
        seeds = list(range(options.first, options.first + len(images)))
        for norm in options.norms.split(","):
            found = adversarial_distance(network, images, labels, norm=norm, effort="thorough", seed=seeds)
            for what, budget in BUDGETS.items():
                same = {"norm": norm, "radius": RADIUS[name][norm], "seed": seeds, "batch_size": 240}
                scores = clever(network, images, labels, **same, **budget)
                estimated = scores.status == Status.ESTIMATED
                ratios = (scores.score / found.distance)[estimated]
                width = ((scores.upper - scores.lower) / 2 / scores.score)[estimated]
                row(
                    name,
                    norm,
                    what,
                    len(ratios),
                    f"{int((ratios > 1 + 1e-5).sum())}",
                    f"{ratios.max():.3f}",
                    f"{ratios.median():.3f}",
                    f"{width.median():.3f}",
                    f"{scores.no_finite_endpoint[estimated].double().mean():.0%}",
                    f"{scores.forward.double().mean():,.0f} + {scores.backward.double().mean():,.0f}",
                )


def between_seeds(options):
    """The median over images of |score with another seed / score - 1|."""
    header("model", "norm", *BUDGETS)
    for name in options.models.split(","):
        network, images, labels = subject(name, options.images, options.first)
        for norm in options.norms.split(","):
            changes = []
            for budget in BUDGETS.values():
                same = {"norm": norm, "radius": RADIUS[name][norm], "batch_size": 240}
                one, other = (clever(network, images, labels, seed=seed, **same, **budget) for seed in (1, 2))
                changes.append(f"{(other.score / one.score - 1).abs().nanmedian():.1%}")
            row(name, norm, *changes)


def against_exact(options):  # noqa: ARG001  # one signature
    """Small random ReLU networks, whose exact distance comes from every linear piece; see references/."""
    header("norm", "images", "CLEVER > exact", "largest ratio", "CLEVER / exact, median", "anchored > exact",
           "largest ratio", "anchored / exact, median", "walks > exact", "largest ratio",
           "walks / exact, median")  # fmt: skip
    for norm in ("linf", "l2", "l1"):
        published, anchored, walks = [], [], []
        for seed in range(16):
            layers = network(seed)
            images = torch.rand(3, 1, 2, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
            labels = layers(images).argmax(dim=1)
            pairs = zip(images, labels.tolist(), strict=True)
            exact = torch.tensor([exact_distance(layers, image, label, norm) for image, label in pairs])
            found = adversarial_distance(layers, images, labels, norm=norm, seed=seed)
            size = 2 * float(exact[exact.isfinite()].median())
            scores = clever(layers, images, labels, norm=norm, radius=size, seed=seed)
            lowered = anchored_clever(layers, images, labels, found.adversarial, scores, norm=norm)
            walked = clever(layers, images, labels, norm=norm, radius=size, seed=seed, sampling="walks")
            judged = exact.isfinite() & (scores.status == Status.ESTIMATED) & lowered.score.isfinite()
            published.append((scores.score / exact)[judged])
            anchored.append((lowered.score / exact)[judged])
            walks.append((walked.score / exact)[judged])
        tables = [torch.cat(ratios) for ratios in (published, anchored, walks)]
        numbers = [
            (f"{(one > 1 + 1e-5).double().mean():.0%}", f"{one.max():.3f}", f"{one.median():.3f}") for one in tables
        ]
        row(norm, len(tables[0]), *(number for one in numbers for number in one))


def radius(options):
    """Multiples of the median distance of the images, and of each image's own distance."""
    header("model", "norm", "radius", "saturated", "of these above the distance", "others: CLEVER <= distance",
           "CLEVER / distance, median", "raw")  # fmt: skip
    for name in options.models.split(","):
        network, images, labels = subject(name, options.images)
        few = {"seed": list(range(len(images))), "blocks": 40, "block_size": 24, "batch_size": 240}
        for norm in ("linf", "l2"):
            found = adversarial_distance(network, images, labels, norm=norm, seed=few["seed"])
            for multiple in (1.1, 1.5, 2.0, 4.0):
                for kind, size in (("median", float(found.distance.median())), ("own", found.distance)):
                    scores = clever(network, images, labels, norm=norm, radius=multiple * size, **few)
                    saturated, estimated = scores.saturated, scores.status == Status.ESTIMATED
                    above = scores.score > found.distance
                    row(
                        name,
                        norm,
                        f"{multiple} x {kind}",
                        f"{saturated.double().mean():.0%}",
                        int((above & saturated).sum()),
                        f"{(~above)[estimated].double().mean():.0%}",
                        f"{(scores.score / found.distance)[estimated].median():.2f}",
                        f"{(scores.raw / found.distance)[estimated].median():.2f}",
                    )


def passes_and_time(options):  # noqa: ARG001  # one signature
    """Time of a pass as a ratio to bare passes of the same batches, and the share of pruning, fits and results."""
    header("model", "norm", "forward", "backward", "time / bare passes", "fits and bookkeeping")
    for name, count in (("resnet20", 2), ("cnn_a_standard", 8), ("robust", 20)):
        network, images, labels = subject(name, count)
        batch = images[:1].expand(256, -1, -1, -1)
        for norm in ("linf", "l2", "l1"):
            before = bare_seconds(network, batch)
            start = time.perf_counter()
            with Stopwatch() as judged:
                found = clever(network, images, labels, norm=norm, radius=RADIUS[name][norm], batch_size=256)
            took = time.perf_counter() - start
            forward, backward = ((one + two) / 2 for one, two in zip(before, bare_seconds(network, batch), strict=True))
            bare = float(found.forward.sum()) * forward + float(found.backward.sum()) * backward
            passes = (f"{one.double().mean():,.0f}" for one in (found.forward, found.backward))
            row(name, norm, *passes, f"{took / bare:.2f}", f"{judged.seconds / took:.1%}")


class Stopwatch:
    """Seconds in everything that is neither sampling nor the model."""

    names = ("prune_by_image", "prune_by_pilot", "update")

    def __enter__(self):
        self.seconds, self.kept = 0.0, {name: getattr(RunningScores, name) for name in self.names}
        for name, function in self.kept.items():
            setattr(RunningScores, name, self.timed(function))
        return self

    def __exit__(self, *_):
        for name, function in self.kept.items():
            setattr(RunningScores, name, function)

    def timed(self, function):
        def wrapped(*arguments):
            start = time.perf_counter()
            result = function(*arguments)
            self.seconds += time.perf_counter() - start
            return result

        return wrapped


def bare_seconds(network, images, seconds=2.0):
    """Seconds of an image through a bare forward and a bare backward pass, the parameters frozen."""
    network.requires_grad_(False)
    forward = backward = calls = 0
    while forward + backward < seconds:
        inputs = images.clone().requires_grad_(True)
        start = time.perf_counter()
        logits = network(inputs)
        middle = time.perf_counter()
        torch.autograd.grad(logits[:, 0].sum(), inputs)
        forward, backward, calls = forward + middle - start, backward + time.perf_counter() - middle, calls + 1
    return forward / calls / len(images), backward / calls / len(images)


if __name__ == "__main__":
    main()
