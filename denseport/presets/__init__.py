"""Weights that others published: which there are, and how to get them."""

from __future__ import annotations

from denseport.presets.download import pull as pull
from denseport.presets.download import resolve as resolve
from denseport.presets.preset import Preset as Preset
from denseport.presets.registry import find as find
from denseport.presets.registry import is_preset as is_preset
from denseport.presets.registry import known as known

__all__ = ["Preset", "find", "is_preset", "known", "pull", "resolve"]
