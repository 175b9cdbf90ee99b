"""The twins: one reference DenseNet for PyTorch and one for Keras, function by function and name by name the same.

Importing this package imports neither framework; `denseport.models.pytorch` and `denseport.models.keras` import theirs.
"""

from __future__ import annotations

from collections.abc import Mapping

from denseport.errors import LayoutError, misfits


def require_fit(given: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Checks that the shapes that were given, by name, are exactly those that a twin expects.

    Raises:
        LayoutError: Keys are missing or unexpected, or sizes mismatch; each kind is listed.
    """
    if found := misfits(given, expected):
        raise LayoutError(
            f"the tensors are not those of the twin that this configuration describes: {'; '.join(found)}"
        )
