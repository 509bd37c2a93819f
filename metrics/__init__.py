"""The numbers: pure functions on tensors, a file per metric. Nothing here knows pytest, files or global state."""

from metrics.adversarial_distance import AdversarialDistances, adversarial_distance
from metrics.attacks import Attack, SearchPath
from metrics.class_distances import ClassDistances, class_distances
from metrics.clever import CleverScores, clever
from metrics.status import Status

__all__ = [
    "AdversarialDistances",
    "Attack",
    "ClassDistances",
    "CleverScores",
    "SearchPath",
    "Status",
    "adversarial_distance",
    "class_distances",
    "clever",
]
