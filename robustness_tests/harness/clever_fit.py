"""How one CLEVER score came about: its samples, the distribution fitted to them, and the score as blocks were drawn."""

from dataclasses import asdict, dataclass

from metrics.extreme_value import end_point
from robustness_tests.harness.fixtures.clever import ScoreOfImage
from robustness_tests.harness.values import plain

BLOCKS = (3, 5, 8, 12, 16, 20, 24, 28, 32, 36, 40, 48, 56)
"""Numbers of blocks after which the score is estimated again; three are needed for a fit."""


@dataclass(frozen=True)
class CleverFit:
    """The fit of one image, for a figure.

    Attributes:
        image: dataset index.
        target: the class with the smallest score.
        margin: logit of the label minus that of the target.
        maxima: the largest dual norm of the gradient in each block.
        lipschitz: the end-point estimated from the maxima; the score is margin / lipschitz, at most the radius.
        shape: shape of the fitted reverse Weibull distribution; None if the gradient is constant.
        p_value: p-value of the goodness-of-fit test.
        radius: radius of the ball.
        distance: the adversarial distance.
        blocks: block counts.
        scores: the score for each block count.
        lower: lower ends of the 95 % intervals of the scores.
        upper: upper ends of the intervals.
    """

    image: int
    target: int
    margin: float
    maxima: list[float]
    lipschitz: float
    shape: float
    p_value: float
    radius: float
    distance: float
    blocks: list[int]
    scores: list[float]
    lower: list[float]
    upper: list[float]


def clever_fit(score: ScoreOfImage, distance: float) -> dict[str, object]:
    """The fit of an estimated score, as plain values.

    The last entry of `scores` is the score itself. The earlier ones use the samples alone, without the gradient at the
    image.
    """
    maxima = score.maxima[: score.blocks]
    blocks = [count for count in BLOCKS if count < score.blocks]
    fits = [end_point(maxima[None, :count]) for count in blocks]

    def scores(name: str, last: float) -> list[float]:
        return [*(min(score.radius, score.margin / float(getattr(fit, name))) for fit in fits), last]

    fit = CleverFit(
        image=score.image,
        target=score.target,
        margin=score.margin,
        maxima=maxima.tolist(),
        lipschitz=score.lipschitz,
        shape=score.shape,
        p_value=score.p_value,
        radius=score.radius,
        distance=distance,
        blocks=[*blocks, score.blocks],
        scores=scores("estimate", score.score),
        lower=scores("upper", score.lower),
        upper=scores("lower", score.upper),
    )
    values: dict[str, object] = plain(asdict(fit))
    return values
