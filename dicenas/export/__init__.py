"""Exports: trained networks as files that need nothing of this package, verified before they appear."""

from dicenas.export.folder import FORMATS, ExportResult, export_network
from dicenas.export.model_source import model_source
from dicenas.export.verify import TOLERANCE, Check, ExportVerificationError

__all__ = [
    "FORMATS",
    "TOLERANCE",
    "Check",
    "ExportResult",
    "ExportVerificationError",
    "export_network",
    "model_source",
]
