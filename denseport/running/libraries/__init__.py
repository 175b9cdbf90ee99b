"""The libraries whose own models can take a twin's place in a parity check."""

from denseport.running.libraries.library import LIBRARIES, Library

__all__ = ["LIBRARIES", "Library"]
