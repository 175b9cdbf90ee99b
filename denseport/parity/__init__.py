"""Parity: how far the outputs of two files are apart when each runs in a framework of its own."""

from denseport.parity.report import Comparison, FrameworkRun, ParityReport
from denseport.parity.verification import verify
from denseport.running.workers import Workers

__all__ = ["Comparison", "FrameworkRun", "ParityReport", "Workers", "verify"]
