"""Layouts: each ecosystem's names, axes and traits for a DenseNet, one data file each.

Detect which one a checkpoint has, take its tensors to their canonical names, and from there to any other.
"""

from denseport.layouts.detect import Net, detect, survey
from denseport.layouts.detection import Detection
from denseport.layouts.parse import find_layout, known_layouts, known_text
from denseport.layouts.renaming import translate
from denseport.layouts.spec import Layout
from denseport.layouts.translate import from_canonical, to_canonical
from denseport.net.weights import Suspicion, Weights, suspicious

__all__ = [
    "Detection",
    "Layout",
    "Net",
    "Suspicion",
    "Weights",
    "detect",
    "find_layout",
    "from_canonical",
    "known_layouts",
    "known_text",
    "survey",
    "suspicious",
    "to_canonical",
    "translate",
]
