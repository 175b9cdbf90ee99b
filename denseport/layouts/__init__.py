"""Layouts: each ecosystem's names, axes and traits for a DenseNet, one data file each.

Detect which one a checkpoint has, take its tensors to their canonical names, and from there to any other.
"""

from denseport.layouts.detect import Detection, detect
from denseport.layouts.spec import Layout, find_layout, known_layouts
from denseport.layouts.translate import Weights, from_canonical, to_canonical, translate

__all__ = [
    "Detection",
    "Layout",
    "Weights",
    "detect",
    "find_layout",
    "from_canonical",
    "known_layouts",
    "to_canonical",
    "translate",
]
