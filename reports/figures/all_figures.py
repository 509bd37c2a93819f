"""The figures of the report, the part that each belongs to, and their captions."""

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
        if_certified: added to the caption if distances are certified.
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
        caption="Share of images whose label stays correct under all attacks up to norm epsilon. This is an upper "
        "bound of the true robust accuracy, because a better attack may succeed. The band is the confidence interval "
        "for other images of the same kind. Red bars are thresholds.",
        if_certified="The certified accuracy is a proved lower bound for the images on which certification was tried. "
        "Compare it with the robust accuracy of the same images.",
    ),
    Drawing(
        title="Adversarial distances",
        part="requirement",
        draw=distances.distribution,
        caption="Share of images whose label an attack changes within a distance. The lower curve is the more "
        "robust model. Each curve starts at the share of misclassified images, and ends below 1 if attacks failed "
        "on some images.",
    ),
    Drawing(
        title="Candidate minus reference",
        part="requirement",
        draw=changes.against_reference,
        caption="One bar for each image that both models classify correctly: how much larger the adversarial distance "
        "of the candidate is. Red bars are images for which the reference is more robust.",
    ),
    Drawing(
        title="Change since the last release",
        part="since",
        draw=changes.since_baseline,
        caption="One bar for each image that both releases classify correctly: how much larger the adversarial "
        "distance is now. Red bars are images for which the last release was more robust.",
    ),
    Drawing(
        title="CLEVER against adversarial distance",
        part="trust",
        draw=scores.scatter,
        caption="One point for each image. CLEVER estimates a lower bound of the true distance, without proof. An "
        "attack gives an upper bound. A point above the dashed diagonal is therefore a wrong score. The further a "
        "point is below the diagonal, the less its score says.",
        if_certified="A whisker goes from the certified to the adversarial distance: the true one is between them.",
    ),
    Drawing(
        title="Proved and attacked",
        part="trust",
        draw=distances.brackets,
        caption="One bar for each certified image, from the certified to the adversarial distance. It is proved that "
        "no perturbation below the lower end changes the label; at the upper end, an attack changes it. The true "
        "distance is in between. A CLEVER score above the bar is wrong, and one below it says less than the "
        "certificate. Long bars mean that the bounds are loose for this architecture, not that the model is weak.",
    ),
    Drawing(
        title="Has the attack converged?",
        part="trust",
        draw=distances.convergence,
        caption="Adversarial distance after each number of queries, divided by the distance at the end. A flat curve "
        "means that more queries would hardly find smaller distances. A curve that still falls at its end means that "
        "the distances are too large.",
    ),
    Drawing(
        title="One CLEVER score in detail",
        part="trust",
        draw=scores.fits,
        caption="The candidate's image with the largest CLEVER / adversarial distance, among scores below the radius. "
        "The score should settle as blocks of samples are drawn, and the fitted distribution should follow the "
        "samples. Its end-point is the estimated Lipschitz constant: the score is the margin divided by it.",
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
