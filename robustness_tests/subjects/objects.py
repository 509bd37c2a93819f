"""Objects of users: `package.module:attribute` or `path/file.py:attribute`."""

import hashlib
import importlib
import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from robustness_tests.subjects.catalog import closest
from robustness_tests.subjects.sources import Source


def attribute_of(source: Source) -> Any:
    """The object that a source names; a function or class is called without arguments, and gives the object.

    A file is imported as Python imports a script: other files of its folder can be imported by it.

    Raises:
        ValueError: if the module cannot be imported, has no such attribute, or the function raises.
    """
    found: Any = _module(source)
    for part in source.attribute.split("."):
        if not hasattr(found, part):
            names = [name for name in vars(found) if not name.startswith("_")] if hasattr(found, "__dict__") else []
            hint = closest(part, names) if len(names) <= 20 else "expected the name of a function or object in it"
            raise ValueError(f"got {source.text!r}, but there is no {part!r} in it, {hint}")
        found = getattr(found, part)
    if not (inspect.isroutine(found) or inspect.isclass(found)):
        return found
    try:
        return found()
    except Exception as error:  # code of the user
        raise ValueError(
            f"got {_told(error)} from {source.attribute}() of {source.text!r}, expected a result"
        ) from error


def _told(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__} {text[:300]!r}" if text else type(error).__name__


def _module(source: Source) -> ModuleType:
    try:
        return _of_file(Path(source.place)) if source.place.endswith(".py") else importlib.import_module(source.place)
    except (Exception, SystemExit) as error:  # code of the user
        hint = ""
        if isinstance(error, ModuleNotFoundError):
            hint = ": it is looked for in the folder that pytest was called in, and where Python looks"
        if "attempted relative import" in str(error):
            hint = ": name it as package.module:attribute"
        raise ValueError(f"got {source.text!r}, which cannot be imported: {_told(error)}{hint}") from error


def _of_file(path: Path) -> ModuleType:
    # Two files of one name are two modules.
    name = f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    specification = importlib.util.spec_from_file_location(name, path)
    if specification is None or specification.loader is None:
        raise ImportError(f"no Python file: {path.name}")
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    folder = str(path.parent)
    sys.path.insert(0, folder)
    try:
        specification.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        sys.path.remove(folder)
        # Last from now on, for imports inside of functions: nothing of ours is shadowed by a file of the user.
        sys.path.append(folder)
    return module
