"""Migration: many files, each converted and verified on its own, in processes of this machine or on a cluster."""

from denseport.migration.orchestration import migrate
from denseport.migration.report import MigrationReport, Result

__all__ = ["MigrationReport", "Result", "migrate"]
