"""RobustBench 1.1.1: the one module that imports it, and what that takes.

It imports a module `autoattack`, while the package that it depends on is called `pyautoattack`; it imports
`pkg_resources`, which setuptools 81 has no more; and for some models it loads checkpoints with `strict=False`, which
lets any missing layer through.
"""

import importlib
import importlib.util
import sys
import warnings
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from robustness_tests.subjects.catalog import closest
from robustness_tests.subjects.checkpoints import weights_only

CONSTANTS = ("mu", "sigma", "mean", "std")
"""Of the normalisation: RobustBench's classes have them as buffers, older checkpoints have not."""

LEFTOVERS = ("scores", "model_preact_hl1")
"""Parts of names in checkpoints that RobustBench's classes have no use for: scores of a pruning, a training head."""


def load(location: str, data_dir: Path) -> nn.Module:
    """A model of RobustBench, by its own loader, from `data_dir/models/DATASET/THREAT/NAME.pt`, strictly.

    Args:
        location: "DATASET/THREAT/NAME", such as "cifar10/corruptions/Hendrycks2020AugMix_WRN".
        data_dir: below it is the folder `models`, in which RobustBench keeps checkpoints, and downloads them to.

    Raises:
        ValueError: if there is no model of this name; its checkpoint is not there and cannot be downloaded, with where
            to put it; or the checkpoint is not of this architecture, or more than weights.
    """
    utils = robustbench_module("utils")
    dataset, threat, name = location.split("/")
    check_name(dataset, threat, name)
    folder = data_dir / "models" / dataset / threat.removesuffix("_3d")
    kept = list(folder.glob(f"{name}.pt*"))
    lenient = utils._safe_load_state_dict  # noqa: SLF001  # checked by robustbench_module
    utils._safe_load_state_dict = _load_strictly  # noqa: SLF001
    try:
        with weights_only(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network: nn.Module = utils.load_model(name, data_dir / "models", dataset, threat)
    except Exception as error:  # whatever a download or a checkpoint may raise
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        if kept:
            raise ValueError(
                f"got a checkpoint {kept[0]} that does not load ({reason}), expected the weights of {name}: remove the "
                "file, and it is downloaded anew"
            ) from error
        raise ValueError(
            f"got no checkpoint {folder / f'{name}.pt'}, and no download ({reason}): put the file of RobustBench "
            "there, or give --data-dir=DIR with models/ in it"
        ) from error
    finally:
        utils._safe_load_state_dict = lenient  # noqa: SLF001
    return network


def download_cifar10_c(corruption: str, data_dir: Path) -> None:
    """Let RobustBench download CIFAR-10-C, 2.7 GB, to `data_dir/CIFAR-10-C`."""
    data_dir.mkdir(parents=True, exist_ok=True)
    robustbench_module("data").load_cifar10c(1, 1, str(data_dir), corruptions=[corruption])


def check_name(dataset: str, threat: str, name: str) -> None:
    """Refuse a name that RobustBench has no model for.

    Raises:
        ValueError: with the closest one, or all.
    """
    zoo, enums = robustbench_module("model_zoo"), robustbench_module("model_zoo.enums")
    of_dataset = zoo.model_dicts[enums.BenchmarkDataset(dataset)]
    known = of_dataset.get(enums.ThreatModel(threat.removesuffix("_3d")), {})
    timm = importlib.import_module("timm")
    in_timm = f"{name}_{dataset}_{threat.removesuffix('_3d')}".lower().replace("-", "_")
    if name in known or timm.is_model(in_timm):
        return
    hint = closest(name, known)
    shown = hint[hint.index("; did") :] if "; did" in hint else f": {', '.join(sorted(known))}"
    raise ValueError(
        f"got {name!r}, expected one of the {len(known)} models that RobustBench has for {dataset}/{threat}{shown}"
    )


def _load_strictly(model: nn.Module, name: str, state_dict: dict[str, Tensor], dataset: Any) -> nn.Module:
    """In place of a function of RobustBench that goes on with whatever layers are missing for some models."""
    del dataset
    outcome = model.load_state_dict(state_dict, strict=False)
    missing = [key for key in outcome.missing_keys if key.rpartition(".")[2] not in CONSTANTS]
    unexpected = [key for key in outcome.unexpected_keys if not any(part in LEFTOVERS for part in key.split("."))]
    if missing or unexpected:
        raise ValueError(
            f"for {name} {len(missing)} weights are missing ({', '.join(missing[:2])}...) and {len(unexpected)} are "
            f"unknown ({', '.join(unexpected[:2])}...)"
        )
    return model


def robustbench_module(module: str) -> Any:
    """A module of RobustBench.

    Raises:
        ValueError: if it cannot be imported, or has not what is used here.
    """
    if "autoattack" not in sys.modules and importlib.util.find_spec("autoattack") is None:
        sys.modules["autoattack"] = importlib.import_module("pyautoattack")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pkg_resources, and of timm's old names
            found = importlib.import_module(f"robustbench.{module}")
    except ImportError as error:
        raise ValueError(
            f"got robustbench that cannot be imported ({error}), expected 1.1.1 with 'setuptools<81' beside it"
        ) from error
    used = {"utils": ("load_model", "_safe_load_state_dict"), "data": ("load_cifar10c",), "model_zoo": ("model_dicts",)}
    for attribute in used.get(module, ()):
        if not hasattr(found, attribute):
            raise ValueError(
                f"got robustbench without {module}.{attribute}, expected 1.1.1: pip install robustbench==1.1.1"
            )
    return found
