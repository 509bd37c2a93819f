"""The measurement store: a file for each measured batch, named by a digest of everything that its numbers depend on.

An interrupted run continues where it stopped, and workers share their measurements.
"""

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor


@dataclass(frozen=True)
class Key:
    """Everything that the numbers of a batch depend on.

    Attributes:
        metric: name of the metric.
        metric_code: digest of the source of all metrics and of this one's files; a change makes stored numbers invalid.
        parameters: keyword arguments of the metric.
        model: name of the model.
        model_digest: digest of its weights, its code, and its logits of some images.
        dataset: name of the dataset.
        dataset_digest: digest of the images and labels of the batch.
        norm: norm of the perturbation.
        first: first dataset index of the batch.
        last: dataset index after the last one.
        seed: seed of the run.
        dtype: of the images.
        device: kind of device.
        torch: version of torch.
    """

    metric: str
    metric_code: str
    parameters: Mapping[str, object]
    model: str
    model_digest: str
    dataset: str
    dataset_digest: str
    norm: str
    first: int
    last: int
    seed: int
    dtype: str
    device: str
    torch: str

    def text(self) -> str:
        """The key as JSON, always the same for equal keys."""
        return json.dumps(asdict(self), sort_keys=True)

    def path(self) -> Path:
        """The path of the batch below the folder of the store: a readable name, made unique by a digest."""
        digest = hashlib.sha256(self.text().encode()).hexdigest()[:16]
        name = f"{self.dataset}-{self.norm}-{self.first:05d}-{self.last - 1:05d}-{digest}.safetensors"
        return Path(self.metric, self.model, name)


@dataclass(frozen=True)
class Store:
    """Stored batches below a folder.

    Attributes:
        folder: made when the first batch is stored.
        started: when the run began, in seconds since the epoch.
        fresh: whether files from before do not count.
    """

    folder: Path
    started: float
    fresh: bool = False

    def fetch(self, key: Key, measure: Callable[[], Mapping[str, Tensor]]) -> tuple[dict[str, Tensor], bool]:
        """The tensors of a batch, and whether they are from before this run.

        One process measures a batch, and others that need it wait. If that process is killed, its lock is released at
        once, and it leaves no incomplete file under the name of the batch.
        """
        path = self.folder / key.path()
        stored = self._read(path)
        if stored is not None:
            return stored
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            stored = self._read(path)
            if stored is not None:
                return stored
            tensors = {name: tensor.cpu().contiguous() for name, tensor in measure().items()}
            self._write(path, tensors, key)
        return tensors, False

    def _read(self, path: Path) -> tuple[dict[str, Tensor], bool] | None:
        try:
            from_before = path.stat().st_mtime < self.started
            return None if self.fresh and from_before else (load_file(path), from_before)
        except FileNotFoundError:
            return None
        except SafetensorError as error:
            warnings.warn(f"stored batch {path.name} is damaged ({error}) and measured again", stacklevel=2)
            return None

    @staticmethod
    def _write(path: Path, tensors: dict[str, Tensor], key: Key) -> None:
        # Only the holder of the lock writes this name; what a killed process left of it is overwritten.
        partial = path.with_suffix(".partial")
        save_file(tensors, partial, metadata={"key": key.text()})
        partial.replace(path)
