"""Records of runs that never were, for tests of the reports."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from reports.rows import properties_of, property_docs
from reports.summary import summarise
from robustness_tests.harness.records import Record, Records
from robustness_tests.harness.run import TRACED, Run
from robustness_tests.harness.thresholds import load_thresholds
from robustness_tests.subjects.sources import Source

RUN = Run(
    model="robust",
    against="standard",
    dataset="digits",
    sources={name: Source("bundled", name, name) for name in ("robust", "standard")},
    dataset_source=Source("bundled", "digits", "digits"),
    data_dir=Path("data"),
    test_images=360,
    values=64,
    images=2,
    clever_radius={"linf": 0.25, "l2": 1.25, "l1": 6.0},
    effort="default",
    norms=("linf", "l2"),
    deployed="",
    precision="float32",
    image_size=None,
    looks=None,
    sampling="first",
    sample=(),
    certify="auto",
    batch_sizes={"robust": 20, "standard": 20},
    digests={},
    remarks=(),
    device="cpu",
    shard=None,
    timeout_per_batch=None,
    seed=0,
    thresholds=load_thresholds(None),
    results=Path("results"),
    store=Path("results/measurements"),
    summary=None,
    baseline=None,
    class_names=(),
    image_digests=(),
    fresh=False,
    started=0.0,
)
EVIL = "<script>alert(1)</script>"


def run_of(models=("robust", "standard"), **changes):
    """RUN with other models, and whatever else is different."""
    sources = {name: Source("bundled", name, name) for name in models}
    batches = dict.fromkeys(models, 20)
    return replace(RUN, model=models[0], against=models[-1], sources=sources, batch_sizes=batches, **changes)


def about_of(name):
    """What a record says of a property of the gate."""
    doc = property_docs().get(name)
    return {"property": name, **(doc.about if doc else {})}


def image_record(outcome="passed", model="robust", norm="linf", image=0, **values):
    about = {**about_of("test_clever_below_distance"), "model": model, "norm": norm, "image": image}
    costs = {"forward": 3, "backward": 2, "stored": False}
    defaults = {"clever": 0.1, "distance": 0.3, "status": "estimated", **costs}
    return Record(f"a.py::test[{model}-{norm}-{image}]", outcome, EVIL, 0.1, about, {**defaults, **values})


def model_record(name="test_clean_accuracy", outcome="passed", values=None, message="", **about):
    values = (
        {"value": 0.99, "lower": 0.95, "upper": 1.0, "threshold": 0.98, "images": 100} if values is None else values
    )
    about = {**about_of(name), "model": "robust", **about}
    return Record(f"a.py::{name}[{about}]", outcome, message, 0.1, about, values)


def gathered(*found, collected=None):
    return Records(len(found) if collected is None else collected, 0, {record.test: record for record in found})


def everything(run=RUN):
    """A record of every property of the gate."""
    return [model_record(name) for name in properties_of(run.not_given)]


def results_of(*records, run=RUN, status=0):
    return summarise(run, gathered(*records), status)


def records_of_images(run, count, seed=0):
    """What the three tests about images record, for random numbers that are as they should be but for a few."""
    random = np.random.default_rng(seed)
    for norm in run.norms:
        for number, model in enumerate(run.models):
            for image in range(count):
                distance = float(random.lognormal(-2 - 0.5 * number, 0.5))
                clever = distance * float(random.uniform(0.3, 1.04))
                above = clever > distance
                trace = [distance * (1 + 3 / queries) for queries in TRACED[:-1]] + [distance]
                costs = {"forward": 3, "backward": 2, "stored": False}
                for name, outcome, values in (
                    (
                        "test_adversarial_example_is_real",
                        "passed",
                        {
                            "distance": distance,
                            "status": "attacked",
                            "label": image % 10,
                            "clean_class": image % 10,
                            "clean_confidence": 0.9,
                            "adversarial_class": (image + 1) % 10,
                            "adversarial_confidence": 0.5,
                            "trace": trace,
                        },
                    ),
                    (
                        "test_clever_below_distance",
                        "xfailed" if above else "passed",
                        {"clever": clever, "distance": distance, "status": "estimated"},
                    ),
                    ("test_certified_below_distance", "passed", {"certified": distance / 4, "distance": distance}),
                ):
                    about = {**about_of(name), "model": model, "norm": norm, "image": image}
                    message = f"CLEVER {clever:.4f} is above the adversarial distance" if outcome == "xfailed" else ""
                    test = f"robustness_tests/test_x.py::{name}[{model}-{run.dataset}-{norm}-{image:05d}]"
                    yield Record(test, outcome, message, 0.01, about, {**values, **costs})


def records_of_models(run):
    """One failed and one passed requirement, and a fit."""
    yield model_record(
        "test_robust_accuracy",
        "failed",
        {
            "value": 0.5,
            "lower": 0.4,
            "upper": 0.6,
            "threshold": 0.9,
            "images": 100,
            "reference_value": 0.4,
            "worst": [1, 4],
        },
        message=f"{run.model} keeps the label of 50 of 100 images up to linf 0.1 (50.0%), expected 90.0% or more",
        model=run.model,
        reference=run.against,
        norm="linf",
        epsilon="0.1",
    )
    yield model_record("test_clean_accuracy", model=run.model)
    maxima = [1 - math.exp(-number / 5) for number in range(1, 13)]
    fit = {
        "image": 1,
        "target": 2,
        "margin": 0.2,
        "maxima": maxima,
        "lipschitz": 1.1,
        "shape": 3.0,
        "p_value": 0.6,
        "radius": 0.5,
        "distance": 0.25,
        "blocks": [3, 8, 12],
        "scores": [0.3, 0.2, 0.18],
        "lower": [0.1, 0.12, 0.15],
        "upper": [0.5, 0.3, 0.2],
    }
    yield model_record(
        "test_share_of_clever_below_distance",
        values={
            "value": 1.0,
            "lower": 0.9,
            "upper": 1.0,
            "threshold": 0.95,
            "images": 9,
            "median_ratio": 0.8,
            "fit": fit,
        },
        model=run.model,
        norm="linf",
    )
