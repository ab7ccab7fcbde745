"""Exports: trained networks as files that need nothing of this package, verified before they appear."""

from dicenas.export.folder import ExportResult, export_network
from dicenas.export.formats import DTYPES, FORMATS, TOLERANCES, check_formats
from dicenas.export.model_source import model_source
from dicenas.export.reading import ExportedNetwork, read_exported
from dicenas.export.verify import TOLERANCE, Check, ExportVerificationError, Verification

__all__ = [
    "DTYPES",
    "FORMATS",
    "TOLERANCE",
    "TOLERANCES",
    "Check",
    "ExportResult",
    "ExportVerificationError",
    "ExportedNetwork",
    "Verification",
    "check_formats",
    "export_network",
    "model_source",
    "read_exported",
]
