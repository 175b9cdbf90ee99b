"""The libraries whose own models can take a twin's place in a parity check."""

from denseport.parity.libraries.library import LIBRARIES, Library

__all__ = ["LIBRARIES", "Library"]
