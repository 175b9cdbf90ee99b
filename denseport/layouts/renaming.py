"""Arrays in memory, from one layout's names and axes to another's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from denseport.checkpoint import Checkpoint, Tensor
from denseport.layouts.detect import detect
from denseport.layouts.parse import find_layout
from denseport.layouts.translate import from_canonical, to_canonical


def translate(
    tensors: Mapping[str, np.ndarray],
    from_layout: str | Path | None = None,
    to_layout: str | Path = "denseport",
) -> dict[str, np.ndarray]:
    """Renames and transposes the arrays of a DenseNet from one layout to another.

    Whether a net of `to_layout` computes the same, and whether its library can build the architecture, is for
    `denseport.convert` to say: weights alone cannot.

    Args:
        tensors: Every array of the net by its name in `from_layout`; left as they are.
        from_layout: A layout's name or TOML file; None detects it.
        to_layout: The same for the result.

    Returns:
        The arrays in `to_layout`, in graph order, with the parameter names and axes of its framework, or of the
        source's where the layout has several; dtypes are kept, and transposed kernels are views, not copies.

    Raises:
        LayoutError: A tensor is missing, unexpected or misshapen (all are named), or `to_layout` has no such layer.
    """
    checkpoint = Checkpoint({name: Tensor.of(np.asarray(array)) for name, array in tensors.items()})
    found = detect(checkpoint, from_layout)
    target = find_layout(to_layout)
    weights = to_canonical(checkpoint, found).concatenated("old-first")
    translated = from_canonical(weights, target, target.framework_for(found.framework.name))
    return {name: tensor.read() for name, tensor in translated.items()}
