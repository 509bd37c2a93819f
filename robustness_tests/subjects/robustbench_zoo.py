"""The only module that imports RobustBench 1.1.1, with the workarounds that it needs.

RobustBench imports a module `autoattack`, but depends on a package that is called `pyautoattack`. It imports
`pkg_resources`, which setuptools 81 no longer has. For some models it loads checkpoints with `strict=False`, so that
missing layers go unnoticed.
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
"""Buffers of the normalisation in RobustBench's classes; older checkpoints do not contain them."""

LEFTOVERS = ("scores", "model_preact_hl1")
"""Parts of checkpoint keys that RobustBench's classes do not use: pruning scores, and a head for training."""


def load(location: str, data_dir: Path) -> nn.Module:
    """Load a RobustBench model with its own loader, but strictly, from `data_dir/models/DATASET/THREAT/NAME.pt`.

    Args:
        location: "DATASET/THREAT/NAME", such as "cifar10/corruptions/Hendrycks2020AugMix_WRN".
        data_dir: folder that contains `models`, where RobustBench stores checkpoints and downloads them to.

    Raises:
        ValueError: if there is no model of this name, if its checkpoint is missing and cannot be downloaded (the
            message says where to put it), or if the checkpoint is of another architecture or not only weights.
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
                "file to download it again"
            ) from error
        raise ValueError(
            f"got no checkpoint {folder / f'{name}.pt'}, and no download ({reason}): put the file of RobustBench "
            "there, or give --data-dir=DIR with models/ in it"
        ) from error
    finally:
        utils._safe_load_state_dict = lenient  # noqa: SLF001
    return network


CORRUPTED = {"CIFAR-10-C": "load_cifar10c", "CIFAR-100-C": "load_cifar100c"}
"""RobustBench's loaders, which download, by the name of the folder."""


def download_corruption(name: str, corruption: str, data_dir: Path) -> None:
    """Let RobustBench download CIFAR-10-C or CIFAR-100-C, 2.7 GB each, to `data_dir/NAME`."""
    data_dir.mkdir(parents=True, exist_ok=True)
    load = getattr(robustbench_module("data"), CORRUPTED[name])
    load(1, 1, str(data_dir), corruptions=[corruption])


def check_name(dataset: str, threat: str, name: str) -> None:
    """Check that RobustBench has a model of this name.

    Raises:
        ValueError: if not; the message has the closest name, or all names.
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
    """Replacement for a function of RobustBench that ignores missing layers for some models."""
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
    """Import a module of RobustBench.

    Raises:
        ValueError: if it cannot be imported, or lacks an attribute that is used here.
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
    used = {
        "utils": ("load_model", "_safe_load_state_dict"),
        "data": tuple(CORRUPTED.values()),
        "model_zoo": ("model_dicts",),
    }
    for attribute in used.get(module, ()):
        if not hasattr(found, attribute):
            raise ValueError(
                f"got robustbench without {module}.{attribute}, expected 1.1.1: pip install robustbench==1.1.1"
            )
    return found
