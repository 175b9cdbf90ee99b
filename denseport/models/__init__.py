"""The twins: one reference DenseNet for PyTorch and one for Keras, function by function and name by name the same.

Importing this package imports neither framework; `denseport.models.pytorch` and `denseport.models.keras` import theirs.
"""

from __future__ import annotations

from collections.abc import Mapping

from denseport.errors import LayoutError, listed


def require_fit(given: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Checks that the shapes that were given, by name, are exactly those that a twin expects.

    Raises:
        LayoutError: Names are missing or unexpected, or shapes differ; each kind is listed.
    """
    faults = {
        "missing": [name for name in expected if name not in given],
        "unexpected": [name for name in given if name not in expected],
        "misshapen": [
            f"{name} {shape}, not {expected[name]}"
            for name, shape in given.items()
            if name in expected and shape != expected[name]
        ],
    }
    if any(faults.values()):
        found = "; ".join(f"{kind}: {listed(names)}" for kind, names in faults.items() if names)
        raise LayoutError(f"the tensors are not those of the twin that this configuration describes; {found}")
