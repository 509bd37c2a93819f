"""Objects of users: `package.module:attribute` or `path/file.py:attribute`."""

import hashlib
import importlib
import importlib.util
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from torch import nn

from robustness_tests.subjects.catalog import closest
from robustness_tests.subjects.sources import Source

_OF_FOLDERS: dict[str, dict[str, ModuleType]] = {}
"""Modules that were imported from the folder of a file, by folder and name."""


def attribute_of(source: Source) -> Any:
    """Return the object that a source names; call it without arguments if it is a function or a class.

    A file is imported like a script: it can import other files in its folder. Files in different folders get the
    modules of their own folder, even if the modules have the same names.

    Raises:
        ValueError: if the module cannot be imported, has no such attribute, or the function raises.
    """
    with _importing_from(source):
        try:
            found: Any = _module(source)
        except (Exception, SystemExit) as error:  # code of the user
            raise ValueError(f"got {source.text!r}, which cannot be imported: {_told(error)}{_hint(error)}") from error
        for part in source.attribute.split("."):
            if not hasattr(found, part):
                names = [name for name in getattr(found, "__dict__", {}) if not name.startswith("_")]
                hint = closest(part, names) if len(names) <= 20 else "expected the name of a function or object in it"
                raise ValueError(f"got {source.text!r}, but there is no {part!r} in it, {hint}")
            found = getattr(found, part)
        if isinstance(found, nn.Module) or hasattr(type(found), "__getitem__") or not callable(found):
            return found
        try:
            return found()
        except (Exception, SystemExit) as error:  # code of the user
            raise ValueError(
                f"got {_told(error)} from {source.attribute}() of {source.text!r}, which is called without arguments"
            ) from error


def _told(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__} {text[:300]!r}" if text else type(error).__name__


def _hint(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError):
        return ": Python looked in sys.path, and in the folder of the file or the one that pytest was called in"
    if "attempted relative import" in str(error):
        return ": name it as package.module:attribute"
    return ""


def _module(source: Source) -> ModuleType:
    if not source.location.endswith(".py"):
        return importlib.import_module(source.location)
    path = Path(source.location)
    # Files of the same name in different folders are different modules.
    name = f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    specification = importlib.util.spec_from_file_location(name, path)
    if specification is None or specification.loader is None:
        raise ImportError(f"no Python file: {path.name}")
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    try:
        specification.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextmanager
def _importing_from(source: Source) -> Iterator[None]:
    """Search the folder of the file, or the one that pytest was called in, first in the block and last after it."""
    of_file = source.location.endswith(".py")
    folder = str(Path(source.location).parent) if of_file else source.folder
    sys.path.insert(0, folder)
    others = {name for key, modules in _OF_FOLDERS.items() if key != folder for name in modules} if of_file else set()
    hidden = {name: sys.modules.pop(name) for name in others & sys.modules.keys()}
    sys.modules.update(_OF_FOLDERS.get(folder, {}) if of_file else {})
    try:
        yield
    finally:
        sys.path.remove(folder)
        # For imports inside functions. Last, so that a file of the user does not shadow one of our modules.
        sys.path.append(folder)
        if of_file:
            _OF_FOLDERS[folder] = _modules_below(folder)
            # Two folders have a module of this name, and an import inside a function could get either of them. Make
            # that import fail instead.
            for name in others & _OF_FOLDERS[folder].keys():
                sys.modules[name] = None  # type: ignore[assignment]  # as Python documents it
        for name, module in hidden.items():
            sys.modules.setdefault(name, module)


def _modules_below(folder: str) -> dict[str, ModuleType]:
    """Imported modules of the user, by name, whose files are in a folder or below it."""
    return {
        name: module
        for name, module in list(sys.modules.items())
        if _is_users(getattr(module, "__file__", None)) and Path(module.__file__ or "").is_relative_to(folder)
    }


def code_of(source: Source, network: nn.Module) -> set[Path]:
    """The user's files that contain the code of a network: its classes, and all that they and the factory refer to.

    Imports inside functions are not followed. Files of installed packages are included if a class or function in them
    is referred to directly.
    """
    roots = [vars(_loaded(source))] if source.kind == "object" else []
    # Without those of torch, which other packages patch: transformers replaces methods of Module.
    every = {kind for module in network.modules() for kind in type(module).__mro__}
    classes = {kind for kind in every if kind.__module__.partition(".")[0] != "torch"}
    roots += [names for kind in classes for names in _globals_of(kind)]
    seen: dict[int, dict[str, Any]] = {}
    while roots:
        names = roots.pop()
        if id(names) not in seen:
            seen[id(names)] = names
            if _is_users(names.get("__file__")):
                roots += [found for value in list(names.values()) for found in _globals_of(value)]
    files = {names.get("__file__") for names in seen.values()}
    return {Path(file) for file in files if file and not _is_of_python_or_torch(file)}


def _loaded(source: Source) -> ModuleType:
    with _importing_from(source):
        return _module(source)


def _globals_of(value: Any) -> list[dict[str, Any]]:
    """The global namespaces that a value uses: those of a module, a function, or the methods of a class."""
    if isinstance(value, ModuleType):
        return [vars(value)] if _is_users(getattr(value, "__file__", None)) else []
    if isinstance(value, type):
        methods = [getattr(method, "__func__", method) for method in list(vars(value).values())]
        return [method.__globals__ for method in methods if isinstance(method, FunctionType)]
    return [value.__globals__] if isinstance(value, FunctionType) else []


@cache
def _installed() -> tuple[Path, ...]:
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    ours = Path(__file__).parents[2]
    packages = [ours / "robustness_tests", ours / "metrics", ours / "reports"]
    return (*(Path(sysconfig.get_path(name)) for name in names), *packages, Path(nn.__file__ or "").parents[2])


def _is_users(file: str | None) -> bool:
    """Whether a file is the user's own: not of Python, of an installed package, or of this suite."""
    return bool(file) and not any(Path(file or "").is_relative_to(folder) for folder in _installed())


def _is_of_python_or_torch(file: str) -> bool:
    """Whether a file belongs to Python or torch, so that their versions identify it."""
    torch, python = Path(nn.__file__ or "").parents[1], Path(sysconfig.get_path("stdlib"))
    packages = Path(sysconfig.get_path("purelib"))
    return Path(file).is_relative_to(torch) or (
        Path(file).is_relative_to(python) and not Path(file).is_relative_to(packages)
    )


def one_line(error: BaseException) -> str:
    """The message of an exception in one line of limited length; its type if the message is empty."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 240 else f"{text[:240]}..."
