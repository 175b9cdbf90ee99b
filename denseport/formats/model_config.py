"""The configuration of a Keras model as plain data: bounded, and never a reason to import or build anything."""

from __future__ import annotations

import json
from typing import Any

from denseport.errors import FormatError, quoted


def parse_config(text: bytes | str, what: str) -> dict[str, Any]:
    """A JSON object as plain data; `what` names it in errors.

    Raises:
        FormatError: The text is no JSON object, or nested beyond reason.
    """
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{what}: is no JSON ({quoted(error)}); save the model again") from None
    if not isinstance(parsed, dict):
        raise FormatError(f"{what}: is no JSON object; save the model again")
    return parsed
