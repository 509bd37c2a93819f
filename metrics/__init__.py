"""Metrics: pure functions on tensors, one file for each metric. They use no pytest, no files and no global state."""

from metrics.adversarial_distance import AdversarialDistances, adversarial_distance
from metrics.anchored_clever import AnchoredScores, anchored_clever
from metrics.attacks import Attack, SearchPath
from metrics.certified_distance import CertifiedDistances, certified_distance
from metrics.class_distances import ClassDistances, class_distances
from metrics.clever import CleverScores, clever, clever_norms
from metrics.exact_distance import ExactDistances, exact_distance
from metrics.failure_probability import FailureProbabilities, failure_probability
from metrics.noise_accuracy import NoiseAccuracies, noise_accuracy
from metrics.second_order_clever import SecondOrderScores, second_order_clever
from metrics.smoothed_radius import SmoothedRadii, smoothed_radius
from metrics.status import Status

__all__ = [
    "AdversarialDistances",
    "AnchoredScores",
    "Attack",
    "CertifiedDistances",
    "ClassDistances",
    "CleverScores",
    "ExactDistances",
    "FailureProbabilities",
    "NoiseAccuracies",
    "SearchPath",
    "SecondOrderScores",
    "SmoothedRadii",
    "Status",
    "adversarial_distance",
    "anchored_clever",
    "certified_distance",
    "class_distances",
    "clever",
    "clever_norms",
    "exact_distance",
    "failure_probability",
    "noise_accuracy",
    "second_order_clever",
    "smoothed_radius",
]
