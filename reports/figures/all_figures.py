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


@dataclass(frozen=True)
class Drawing:
    """A figure to be drawn.

    Attributes:
        title: its heading.
        part: of the report.
        draw: its panels for a run; none where there are no numbers.
        caption: how to read it.
        if_certified: what else there is to read where distances are certified.
    """

    title: str
    part: str
    draw: Callable[[Results], list[Panel]]
    caption: str
    if_certified: str = ""


DRAWINGS = (
    Drawing(
        title="Robust accuracy",
        part="requirement",
        draw=distances.robust_accuracy,
        caption="Share of images that keep their right label up to a perturbation of norm epsilon, as far as "
        "attacks know: an upper bound of the truth, with the interval for other images of the same kind. "
        "Red bars are what was needed.",
        if_certified="The certified accuracy, of the images that were certified, is proved: a lower bound.",
    ),
    Drawing(
        title="Adversarial distances",
        part="requirement",
        draw=distances.distribution,
        caption="Share of images whose label an attack changes within a distance. The lower curve is the more "
        "robust model; it starts at the share of misclassified images and ends below 1 where attacks found "
        "nothing.",
    ),
    Drawing(
        title="Candidate minus reference",
        part="requirement",
        draw=changes.against_reference,
        caption="One bar for each image that both models classify correctly: how much further an attacker has to go "
        "for the candidate. Red bars are images that were better off with the reference.",
    ),
    Drawing(
        title="Change since the last release",
        part="since",
        draw=changes.since_baseline,
        caption="One bar for each image that both releases classify correctly: how much further an attacker has to "
        "go now. Red bars are images that were better off before.",
    ),
    Drawing(
        title="CLEVER against adversarial distance",
        part="trust",
        draw=scores.scatter,
        caption="One point for each image. CLEVER estimates a lower bound of the distance, without proof, and an "
        "attack gives an upper one, so a point above the dashed diagonal is a wrong score. The further "
        "below, the less a score says.",
        if_certified="A whisker goes from the certified to the adversarial distance: the true one is on it.",
    ),
    Drawing(
        title="Proved and attacked",
        part="trust",
        draw=distances.brackets,
        caption="One bar for each certified image. No perturbation below its lower end changes the label, which is "
        "proved, and one at its upper end does: the true distance is in between. A CLEVER score above the "
        "bar is wrong, one below it says less than what is proved. Long bars say that the bounds are loose for this "
        "architecture, not that the model is weak.",
    ),
    Drawing(
        title="Has the attack converged?",
        part="trust",
        draw=distances.convergence,
        caption="Adversarial distances while the attack goes on, divided by those at its end. Where the curves are "
        "flat, more queries would hardly find less; a curve that still falls at its end says that the "
        "distances are too large.",
    ),
    Drawing(
        title="One CLEVER score in detail",
        part="trust",
        draw=scores.fits,
        caption="The candidate's image whose score, of those below the radius, is the largest part of its "
        "adversarial distance. The score has to settle while blocks of samples are drawn, and the fitted "
        "distribution has to follow the samples: its end-point is the Lipschitz constant that the margin is divided "
        "by.",
    ),
)


def figures(results: Results) -> list[Figure]:
    """The figures that there are numbers for."""
    certified = any(row.certified for row in results.images)
    drawn = []
    for one in DRAWINGS:
        panels = tuple(one.draw(results))
        if panels:
            caption = f"{one.caption} {one.if_certified}".strip() if certified else one.caption
            drawn.append(Figure(one.title, one.part, caption, panels))
    return drawn
