"""What a metric says about one image: rows of the results of a batch, in plain Python values."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar, get_type_hints

import torch
from torch import Tensor

from metrics import Attack, Status

Result = TypeVar("Result")


@dataclass(frozen=True)
class DistanceOfImage:
    """The adversarial distance of one image; see `metrics.AdversarialDistances`.

    Attributes:
        trace: the distance after 1, 2, 5, 10, ... queries, see `harness.run.TRACED`.
        halfway: the distance after half of the queries.
        stored_at: file below the folder of the measurements and row in it, "FILE#ROW".
    """

    image: int
    distance: float
    status: Status
    attack: Attack
    bracket: float
    adversarial: Tensor = field(repr=False)
    trace: Tensor = field(repr=False)
    halfway: float
    stored_at: str = field(repr=False)
    forward: int
    backward: int
    stored: bool


@dataclass(frozen=True)
class ScoreOfImage:
    """The CLEVER score of one image; see `metrics.CleverScores`."""

    image: int
    score: float
    lower: float
    upper: float
    raw: float
    target: int
    p_value: float
    maxima: Tensor = field(repr=False)
    margin: float
    lipschitz: float
    shape: float
    degenerate_fit: bool
    no_finite_endpoint: bool
    zero_gradient: bool
    broken_gradient: bool
    masked_gradient: bool
    blocks: int
    radius: float
    status: Status
    forward: int
    backward: int
    stored: bool


@dataclass(frozen=True)
class AnchoredScoreOfImage:
    """The anchored CLEVER score of one image; see `metrics.AnchoredScores`."""

    image: int
    score: float
    anchor: int
    status: Status
    forward: int
    backward: int
    stored: bool


@dataclass(frozen=True)
class CertificateOfImage:
    """The certified distance of one image; see `metrics.CertifiedDistances`."""

    image: int
    distance: float
    failed: float
    status: Status
    trials: int
    reasons: str
    forward: int
    backward: int
    stored: bool

    @property
    def reason(self) -> str:
        """Why there is no certificate; empty where there is one."""
        return self.reasons


@dataclass(frozen=True)
class ExactDistanceOfImage:
    """The exact distance of one image; see `metrics.ExactDistances`."""

    image: int
    distance: float
    lower: float
    upper: float
    adversarial: Tensor = field(repr=False)
    status: Status
    seconds: float
    reasons: str
    stored: bool

    @property
    def reason(self) -> str:
        """Why there is no exact distance; empty where there is one."""
        return self.reasons


@dataclass(frozen=True)
class NoiseOfImage:
    """How often one image keeps its right label with random noise; see `metrics.NoiseAccuracies`.

    Attributes:
        epsilons: the strengths, as written.
        ball: share of right labels at each strength, noise uniform in the ball.
        sphere: the same, uniform on its surface.
    """

    image: int
    epsilons: tuple[str, ...]
    ball: Tensor = field(repr=False)
    sphere: Tensor = field(repr=False)
    forward: int
    stored: bool

    def at(self, epsilon: str, law: str) -> float:
        """The share at a strength, as written in `epsilons`, for the law "ball" or "sphere"."""
        shares: Tensor = getattr(self, law)
        return float(shares[self.epsilons.index(epsilon)])


def of_row(kind: Callable[..., Result], row: Mapping[str, Tensor], stored: bool, **given: Any) -> Result:  # noqa: FBT001  # as the store says it
    """One image's part of a result: each column in the type of the field of the same name."""
    hints = get_type_hints(kind)
    values = {
        one.name: _value(hints[one.name], row[one.name])
        for one in fields(kind)  # type: ignore[arg-type]  # a dataclass
        if one.name not in (*given, "stored")
    }
    return kind(**values, stored=stored, **given)


def _value(kind: Any, value: Tensor) -> Any:
    if kind is Tensor:
        return value
    if kind is str:
        return bytes(value[value > 0].tolist()).decode(errors="replace")
    return kind(int(value)) if kind in (Status, Attack) else kind(value)


def of_texts(texts: Sequence[str]) -> Tensor:
    """Texts as a tensor, for the store: uint8, shape (N, length), filled up with 0.

    Example:
        >>> of_texts(["a", ""])
        tensor([[97],
                [ 0]], dtype=torch.uint8)
    """
    encoded = [text.encode()[:300] for text in texts]
    longest = max(1, *(len(text) for text in encoded)) if encoded else 1
    return torch.tensor([[*text, *[0] * (longest - len(text))] for text in encoded], dtype=torch.uint8)
