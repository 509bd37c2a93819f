"""Which figures there are, in which part of the report, and what each says."""

from collections.abc import Callable
from dataclasses import dataclass

from reports.figures import changes, distances, scores
from reports.figures.panel import Panel
from reports.results import Results


@dataclass(frozen=True)
class Figure:
    """A figure: panels side by side.

    Attributes:
        title: its heading.
        part: of the report: one of the groups of `reports.rows`.
        caption: how to read it.
        panels: one or more.
    """

    title: str
    part: str
    caption: str
    panels: tuple[Panel, ...]


DRAWN: tuple[tuple[str, str, str, Callable[[Results], list[Panel]]], ...] = (
    (
        "Robust accuracy",
        "requirement",
        (
            "Share of images that keep their right label up to a perturbation of norm epsilon, as far as attacks "
            "know: an upper bound, with the interval for other images of the same kind. Below it, the certified "
            "accuracy is proved. The truth is between them. Red bars are what was needed."
        ),
        distances.robust_accuracy,
    ),
    (
        "Adversarial distances",
        "requirement",
        (
            "Share of images whose label an attack changes within a distance. The lower curve is the more robust "
            "model; it starts at the share of misclassified images and ends below 1 where attacks found nothing."
        ),
        distances.distribution,
    ),
    (
        "Candidate minus reference",
        "requirement",
        (
            "One bar for each image that both models classify correctly: how much further an attacker has to go "
            "for the candidate. Red bars are images that were better off with the reference."
        ),
        changes.against_reference,
    ),
    (
        "Change since the last release",
        "since",
        ("One bar for each image that both releases classify correctly: how much further an attacker has to go now."),
        changes.since_baseline,
    ),
    (
        "CLEVER against adversarial distance",
        "trust",
        (
            "One point for each image. CLEVER estimates a lower bound of the distance, without proof, and an "
            "attack gives an upper one, so a point above the dashed diagonal is a wrong score. The further below,"
            " the less a score says. A whisker goes from the certified to the adversarial distance: the true one "
            "is on it."
        ),
        scores.scatter,
    ),
    (
        "Proved and attacked",
        "trust",
        (
            "One bar for each certified image. No perturbation below its lower end changes the label, which is "
            "proved, and one at its upper end does: the true distance is in between. A CLEVER score above the bar"
            " is wrong, one below it is useless. Long bars say that the bounds are loose for this architecture, "
            "not that the model is weak."
        ),
        distances.brackets,
    ),
    (
        "Is the attack converged?",
        "trust",
        (
            "Adversarial distances while the attack goes on, divided by those at its end. Where the curves are "
            "flat, more queries would hardly find less; a curve that still falls at its end says that the "
            "distances are too large."
        ),
        distances.convergence,
    ),
    (
        "One CLEVER score in detail",
        "trust",
        (
            "Of the image of the candidate whose score is nearest to its adversarial distance, or furthest above "
            "it. The score has to settle while blocks of samples are drawn, and the fitted law has to follow the "
            "samples: its end-point is the Lipschitz constant that the margin is divided by."
        ),
        scores.fits,
    ),
)


def figures(results: Results) -> list[Figure]:
    """The figures that there are numbers for."""
    drawn = ((title, part, caption, tuple(draw(results))) for title, part, caption, draw in DRAWN)
    return [Figure(title, part, caption, panels) for title, part, caption, panels in drawn if panels]
