"""The fixtures that tests ask for. They work in any test below the root of the checkout.

def test_my_image(candidate, adversarial_distance):
    assert adversarial_distance(candidate, 7, norm="l2").distance > 0.3
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from robustness_tests.harness.baseline import Baseline
from robustness_tests.harness.progress import PassCounter, batch_done
from robustness_tests.harness.records import ABOUT
from robustness_tests.harness.run import RUN, Run
from robustness_tests.harness.thresholds import Thresholds
from robustness_tests.harness.values import plain

if TYPE_CHECKING:
    # Importing torch takes seconds; the controller of a distributed run never needs it.
    from robustness_tests.harness.black_box import BlackBox
    from robustness_tests.harness.image_results import (
        AnchoredScoreOfImage,
        CertificateOfImage,
        DistanceOfImage,
        ExactDistanceOfImage,
        NoiseOfImage,
        ScoreOfImage,
    )
    from robustness_tests.harness.measurements import Measurements, Subject


class AdversarialDistance(Protocol):
    """The fixture `adversarial_distance`."""

    def __call__(self, model: Subject, image: int, *, norm: str) -> DistanceOfImage:
        """The adversarial distance of the image with this dataset index."""


class Clever(Protocol):
    """The fixture `clever`."""

    def __call__(self, model: Subject, image: int, *, norm: str) -> ScoreOfImage:
        """The CLEVER score of the image with this dataset index."""


class AnchoredClever(Protocol):
    """The fixture `anchored_clever`."""

    def __call__(self, model: Subject, image: int, *, norm: str) -> AnchoredScoreOfImage:
        """The anchored CLEVER score of the image with this dataset index."""


class CertifiedDistance(Protocol):
    """The fixture `certified_distance`."""

    def __call__(self, model: Subject, image: int, *, norm: str) -> CertificateOfImage:
        """The certified distance of the image with this dataset index."""


class ExactDistance(Protocol):
    """The fixture `exact_distance`."""

    def __call__(self, model: Subject, image: int, *, norm: str) -> ExactDistanceOfImage:
        """The exact distance of the image with this dataset index."""


class NoiseAccuracy(Protocol):
    """The fixture `noise_accuracy`."""

    def __call__(self, model: Subject, image: int, *, norm: str) -> NoiseOfImage:
        """How often the image with this dataset index keeps its right label with random noise."""


class Measured(Protocol):
    """The fixture `measured`."""

    def __call__(self, **values: Any) -> None:
        """Put values into the record of the running test."""


@pytest.fixture(scope="session")
def run(pytestconfig: pytest.Config) -> Run:
    """The options of this run."""
    return pytestconfig.stash[RUN]


@pytest.fixture(scope="session")
def thresholds(run: Run) -> Thresholds:
    """What counts as good enough: thresholds.toml and the file of `--thresholds`."""
    return run.thresholds


@pytest.fixture(scope="session")
def baseline(run: Run) -> Baseline:
    """The last release, `--baseline`."""
    if run.baseline is None:
        pytest.skip("nothing to compare: no results of a last release were given (--baseline)")
    return run.baseline


@pytest.fixture(scope="session")
def images(run: Run) -> range:
    """The dataset indices of this run's images."""
    return range(run.images)


@pytest.fixture(scope="session")
def certified_images(run: Run) -> range:
    """The dataset indices of the images of this run that are certified; none with `--certify off`."""
    return range(run.certified_images)


@pytest.fixture(scope="session")
def measurements(run: Run, pytestconfig: pytest.Config) -> Measurements:
    """All that has been measured, see the fixtures `adversarial_distance` and `clever`."""
    from robustness_tests.harness.measurements import Measurements  # noqa: PLC0415  # torch, see above

    return Measurements(
        run,
        lambda batch, stored: batch_done(pytestconfig, batch, stored=stored),
        PassCounter(pytestconfig),
    )


@pytest.fixture(scope="session")
def candidate(measurements: Measurements, run: Run) -> Subject:
    """The model under release, `--model`."""
    return measurements.subject(run.model)


@pytest.fixture(scope="session")
def reference(measurements: Measurements, run: Run) -> Subject:
    """The model that the candidate has to beat, `--against`."""
    return measurements.subject(run.against)


@pytest.fixture
def model(measurements: Measurements, model_name: str) -> Subject:
    """Each model of the run in turn: a test that asks for it runs once for candidate and reference."""
    return measurements.subject(model_name)


@pytest.fixture(scope="session")
def adversarial_distance(measurements: Measurements) -> AdversarialDistance:
    """Measure the adversarial distance: `adversarial_distance(model, image, norm=...)`."""
    return lambda model, image, *, norm: measurements.distance(model.name, image, norm)


@pytest.fixture(scope="session")
def clever(measurements: Measurements) -> Clever:
    """Measure the CLEVER score: `clever(model, image, norm=...)`."""
    return lambda model, image, *, norm: measurements.score(model.name, image, norm)


@pytest.fixture(scope="session")
def anchored_clever(measurements: Measurements) -> AnchoredClever:
    """Measure the CLEVER score anchored at the adversarial example: `anchored_clever(model, image, norm=...)`.

    Another estimator than CLEVER, and never above the adversarial distance by construction.
    """
    return lambda model, image, *, norm: measurements.anchored_score(model.name, image, norm)


@pytest.fixture(scope="session")
def certified_distance(measurements: Measurements) -> CertifiedDistance:
    """Prove a lower bound of the distance: `certified_distance(model, image, norm=...)`, linf or l2.

    A test that is parametrised with `image` and asks for this runs for the certified images only.
    """
    return lambda model, image, *, norm: measurements.certificate(model.name, image, norm)


@pytest.fixture(scope="session")
def exact_distance(measurements: Measurements) -> ExactDistance:
    """Find the true distance, in linf, of a small ReLU network: `exact_distance(model, image, norm="linf")`."""
    return lambda model, image, *, norm: measurements.exact(model.name, image, norm)


@pytest.fixture(scope="session")
def noise_accuracy(measurements: Measurements) -> NoiseAccuracy:
    """Measure the accuracy under random noise: `noise_accuracy(model, image, norm=...)`, at the run's strengths."""
    return lambda model, image, *, norm: measurements.noise(model.name, image, norm)


@pytest.fixture(scope="session")
def common_corruptions(measurements: Measurements) -> Callable[[Subject], dict[str, float]]:
    """Accuracy under each corruption of CIFAR-10-C, where the data is there: `common_corruptions(model)`."""
    return lambda model: measurements.common_corruptions(model.name)


@pytest.fixture(scope="session")
def black_box(measurements: Measurements) -> BlackBox:
    """Attack an image without gradients: `black_box(model, image, norm=..., epsilon=...)`."""
    from robustness_tests.harness.black_box import BlackBox  # noqa: PLC0415  # torch, see above

    return BlackBox(measurements)


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Measured:
    """Put values into the record of the running test: `measured(distance=..., threshold=...)`, plain or tensors.

    They go to results.json, the HTML report and, as properties, to JUnit XML.
    """

    def record(**values: Any) -> None:
        reserved = sorted(set(values) & set(ABOUT))
        if reserved:
            raise ValueError(
                f"got measured({reserved[0]}=...), expected another name: this one says what a test is about"
            )
        request.node.user_properties.extend((name, plain(value)) for name, value in values.items())

    return record
