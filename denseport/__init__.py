"""Carry DenseNet weights between PyTorch and Keras, with proof that both compute the same.

Importing this package imports no framework: each public name loads its module on first use. The names stand once, as
imports in `__init__.pyi`. Type checkers and editors read that file in place of this one, and this one reads it too, as
in "SPEC 1: Lazy Loading of Submodules and Functions" of Scientific Python.
"""

import ast
from importlib import import_module
from pathlib import Path

_STUB = ast.parse(Path(__file__).with_name("__init__.pyi").read_text(encoding="utf-8"))
_HOMES = {name.name: home.module for home in _STUB.body if isinstance(home, ast.ImportFrom) for name in home.names}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> object:
    if name == "__version__":
        return import_module("importlib.metadata").version("denseport")
    if name not in _HOMES:
        raise AttributeError(f"module 'denseport' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
