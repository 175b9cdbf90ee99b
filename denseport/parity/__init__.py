"""Parity: how far the outputs of two files are apart when each runs in a framework of its own."""

from denseport.parity.processes import Workers
from denseport.parity.report import Comparison, FrameworkRun, ParityReport
from denseport.parity.verification import verify

__all__ = ["Comparison", "FrameworkRun", "ParityReport", "Workers", "verify"]
