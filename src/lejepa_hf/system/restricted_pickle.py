"""Reads pickles of others, which can only make objects of known classes, so that nothing in them runs code."""

import pickle
from collections.abc import Callable
from enum import EnumMeta
from pathlib import Path


class _Unpickler(pickle.Unpickler):
    is_known: Callable[[str, str], bool]

    def find_class(self, module: str, name: str) -> object:
        if (module, name) == ("builtins", "getattr"):
            return _member  # Python 3.11.0 to 3.11.3 write members of enumerations in this way
        if not self.is_known(module, name):
            raise pickle.UnpicklingError(f"GLOBAL {module}.{name} is not a known class")  # in PyTorch's words
        return super().find_class(module, name)


def _member(kind: object, name: object) -> object:
    if not (isinstance(kind, EnumMeta) and isinstance(name, str) and name in kind.__members__):
        raise pickle.UnpicklingError("GLOBAL builtins.getattr is not of an enumeration")
    return kind[name]


def read_pickle(path: Path, is_known: Callable[[str, str], bool]) -> object:
    """
    The object in a file that `pickle` wrote, if it consists of built-in containers and of known classes.

    `is_known` is given module and name of everything that the file names. What it does not know is refused before
    anything is called; like a damaged file, it raises one of the many errors of `pickle`.
    """
    with path.open("rb") as file:
        unpickler = _Unpickler(file)
        unpickler.is_known = is_known
        return unpickler.load()
