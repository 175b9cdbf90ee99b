"""A parity check as one self-contained HTML file: `page` makes it of a `ParityReport`."""

from denseport.parity.document.page import page

__all__ = ["page"]
