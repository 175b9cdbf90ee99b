"""A parity check as one self-contained HTML file: `page` makes it of a `ParityReport`."""

from denseport.page.page import page

__all__ = ["page"]
