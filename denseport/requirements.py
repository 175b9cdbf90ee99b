"""Which framework is installed, found out without importing it."""

from __future__ import annotations

import os
from importlib.util import find_spec

from denseport.errors import FrameworkMissingError, UsageError, quoted

BACKENDS = ("tensorflow", "torch", "jax")


def require_torch() -> None:
    """Raises FrameworkMissingError where torch is not installed."""
    _require("torch", "torch")


def require_keras() -> None:
    """Raises FrameworkMissingError where Keras or its backend is not installed.

    Raises:
        UsageError: KERAS_BACKEND names no backend of Keras.
    """
    _require("tensorflow", "keras", keras_backend())


def require_parity(backend: str) -> None:
    """Raises FrameworkMissingError where torch, Keras or this backend of Keras' is not installed."""
    _require("parity", "torch", "keras", backend, remedy=", or convert with --no-verify")


def keras_backend(asked: str | None = None) -> str:
    """The backend that Keras is going to use: the one that was asked for, else that of the environment.

    Raises:
        UsageError: KERAS_BACKEND names no backend of Keras.
    """
    backend = asked or os.environ.get("KERAS_BACKEND") or "tensorflow"
    if backend not in BACKENDS:
        raise UsageError(f"KERAS_BACKEND is {quoted(backend)}; set it to one of {', '.join(BACKENDS)}")
    return backend


def _require(extra: str, *modules: str, remedy: str = "") -> None:
    if missing := [module for module in modules if find_spec(module) is None]:
        raise FrameworkMissingError(f"this needs {' and '.join(missing)}: pip install 'denseport[{extra}]'{remedy}")
