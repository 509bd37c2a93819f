"""The numbers: pure functions on tensors, a file per metric. Nothing here knows pytest, files or global state."""

from metrics.adversarial_distance import AdversarialDistances, adversarial_distance
from metrics.attacks import Attack
from metrics.clever import CleverScores, clever
from metrics.status import Status

__all__ = ["AdversarialDistances", "Attack", "CleverScores", "Status", "adversarial_distance", "clever"]
