"""The configuration of a Keras model as plain data: bounded, and never a reason to import or build anything."""

from __future__ import annotations

import json
from typing import Any

from denseport.errors import FormatError, quoted

# A config takes a kilobyte a layer; as Python's objects up to fifty times that.
MAX_CONFIG_BYTES = 4 << 20


def parse_config(text: bytes | str, what: str) -> dict[str, Any]:
    """A JSON object as plain data; `what` names it in errors.

    Raises:
        FormatError: The text is no JSON object, nested beyond reason, or far longer than any DenseNet's.
    """
    if len(text) > MAX_CONFIG_BYTES:
        raise FormatError(
            f"{what}: is longer than the {MAX_CONFIG_BYTES} bytes that any DenseNet takes; save its weights alone"
        )
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{what}: is no JSON ({quoted(error)}); save the model again") from None
    if not isinstance(parsed, dict):
        raise FormatError(f"{what}: is no JSON object; save the model again")
    return parsed
