"""The measurement store: a file for each measured batch, named by a digest of everything that its numbers depend on.

An interrupted run continues where it stopped, and workers share their measurements.
"""

import contextlib
import errno
import hashlib
import json
import os
import platform
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
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
    """Stored batches below a folder, which several runs and machines may share.

    Each file has the key and a digest of its tensors. A file that is truncated, changed or of another batch is put
    aside with one warning, and the batch is measured again.

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
        once, and it leaves no incomplete file under the name of the batch. Where the folder has no locks, or locks that
        other machines do not see, two processes may measure the same batch, and both store the same numbers.
        """
        path = self.folder / key.path()
        stored = self._read(path, key)
        if stored is not None:
            return stored
        with _alone(path) as writable:
            # Only the holder of the lock puts a damaged file aside, so that there is one warning.
            stored = self._read(path, key, put_aside=writable)
            if stored is not None:
                return stored
            tensors = {name: tensor.cpu().contiguous() for name, tensor in measure().items()}
            if writable:
                self._write(path, tensors, key)
        return tensors, False

    def _read(self, path: Path, key: Key, *, put_aside: bool = False) -> tuple[dict[str, Tensor], bool] | None:
        """The tensors of a batch, and whether they are from before this run; None if they have to be measured."""
        try:
            from_before = path.stat().st_mtime < self.started
            return None if self.fresh and from_before else (_checked(path, key), from_before)
        except OSError:  # it is not there, another process has just put it aside, or this one may not read it
            return None
        except DamagedError as error:
            if put_aside:
                with contextlib.suppress(FileNotFoundError):  # another machine, which does not see the lock, was first
                    path.replace(path.with_suffix(".damaged"))
                warnings.warn(f"stored batch {path.name} is damaged ({error}) and measured again", stacklevel=3)
            return None

    @staticmethod
    def _write(path: Path, tensors: dict[str, Tensor], key: Key) -> None:
        """Write a batch. If that is not possible, warn: the numbers in memory are reported all the same."""
        # A name of this process: another machine may not see the lock.
        partial = path.with_suffix(f".{platform.node()}-{os.getpid()}.partial")
        try:
            # One entry: safetensors writes several in an order of chance, and equal batches would differ as files.
            save_file(tensors, partial, metadata={"sha256 and key": f"{_digest(tensors)} {key.text()}"})
            with partial.open("rb+") as file:
                os.fsync(file.fileno())  # or a power failure may leave the name without its content
            partial.chmod(_usual_mode())  # safetensors makes files that only their owner can read
            partial.replace(path)
        except (OSError, SafetensorError) as error:
            with contextlib.suppress(OSError):  # the folder may have become read-only
                partial.unlink(missing_ok=True)
            _warn_of(error)


WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What file systems without locks answer, some network folders among them."""


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[bool]:
    """Wait until no other process measures the batch. False, with a warning, if the store cannot be written to."""
    # No soft lock, which a killed process would keep.
    lock = FileLock(path.with_suffix(".lock"), mode=_usual_mode(), fallback_to_soft=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        if error.errno in WITHOUT_LOCKS:
            warnings.warn(
                f"the folder of the store has no file locks ({error.strerror}): two processes may measure the same "
                "batch",
                stacklevel=4,
            )
            yield True
        else:  # read-only, full, or a file in the place of a folder
            _warn_of(error)
            yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _warn_of(error: Exception) -> None:
    # The same words for all batches: pytest then shows one warning.
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    warnings.warn(f"a batch is reported, but not stored, so the next run measures it again: {reason}", stacklevel=4)


class DamagedError(Exception):
    """A file of the store is not what was written, or not of the batch of its name."""


def _checked(path: Path, key: Key) -> dict[str, Tensor]:
    try:
        with safe_open(path, "pt") as file:
            digest, _, text = (file.metadata() or {}).get("sha256 and key", "").partition(" ")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
    except SafetensorError as error:
        raise DamagedError(str(error)) from error
    if text != key.text():
        raise DamagedError("it is of another batch")
    if digest != _digest(tensors):
        raise DamagedError("its content has changed")
    return tensors


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """A digest of names, types, shapes and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def _usual_mode() -> int:
    """The permissions of a new file, as the user's mask allows them. A mask can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return 0o666 & ~mask
