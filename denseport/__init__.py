"""Carry DenseNet weights between PyTorch and Keras, with proof that both compute the same.

Importing this package imports no framework; each name below loads its part on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from denseport.atomic import write as write
    from denseport.checkpoint import Checkpoint as Checkpoint
    from denseport.checkpoint import Tensor as Tensor
    from denseport.conversion import ConversionReport as ConversionReport
    from denseport.conversion import convert as convert
    from denseport.difference import Difference as Difference
    from denseport.difference import diff as diff
    from denseport.errors import DenseportError as DenseportError
    from denseport.errors import FormatError as FormatError
    from denseport.errors import FrameworkMissingError as FrameworkMissingError
    from denseport.errors import LayoutError as LayoutError
    from denseport.errors import UsageError as UsageError
    from denseport.errors import VerificationError as VerificationError
    from denseport.inspection import Inspection as Inspection
    from denseport.inspection import derive as derive
    from denseport.inspection import inspect as inspect
    from denseport.layouts.translate import translate as translate
    from denseport.load import load_keras as load_keras
    from denseport.load import load_torch as load_torch
    from denseport.load import read as read
    from denseport.migration import MigrationReport as MigrationReport
    from denseport.migration import migrate as migrate
    from denseport.net.config import DenseNetConfig as DenseNetConfig
    from denseport.net.config import Traits as Traits
    from denseport.parity import ParityReport as ParityReport
    from denseport.parity import Workers as Workers
    from denseport.parity import verify as verify
    from denseport.prediction import Prediction as Prediction
    from denseport.prediction import predict as predict
    from denseport.preprocessing import Preprocessing as Preprocessing
    from denseport.preprocessing import preprocess as preprocess
    from denseport.presets import Preset as Preset
    from denseport.presets import pull as pull

_HOMES = {
    "Checkpoint": "checkpoint",
    "Tensor": "checkpoint",
    "DenseNetConfig": "net.config",
    "Traits": "net.config",
    "ConversionReport": "conversion",
    "convert": "conversion",
    "Difference": "difference",
    "diff": "difference",
    "DenseportError": "errors",
    "FormatError": "errors",
    "FrameworkMissingError": "errors",
    "LayoutError": "errors",
    "UsageError": "errors",
    "VerificationError": "errors",
    "Inspection": "inspection",
    "derive": "inspection",
    "inspect": "inspection",
    "translate": "layouts.translate",
    "load_keras": "load",
    "load_torch": "load",
    "read": "load",
    "MigrationReport": "migration",
    "migrate": "migration",
    "write": "atomic",
    "ParityReport": "parity",
    "Workers": "parity",
    "verify": "parity",
    "Prediction": "prediction",
    "predict": "prediction",
    "Preprocessing": "preprocessing",
    "preprocess": "preprocessing",
    "Preset": "presets",
    "pull": "presets",
}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("denseport")
    if name not in _HOMES:
        raise AttributeError(f"module 'denseport' has no attribute {name!r}")
    return getattr(import_module(f"denseport.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
