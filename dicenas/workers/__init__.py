"""Processes that work on one search: claims, limits, crashes, and what is shown of them."""

from dicenas.workers.limits import Limits
from dicenas.workers.manifest import read_manifest
from dicenas.workers.session import Session
from dicenas.workers.storage import StorageLostError, open_storage
from dicenas.workers.supervisor import WorkerError, spawned
from dicenas.workers.task import Task, Workers
from dicenas.workers.worker import Rungs

__all__ = [
    "Limits",
    "Rungs",
    "Session",
    "StorageLostError",
    "Task",
    "WorkerError",
    "Workers",
    "open_storage",
    "read_manifest",
    "spawned",
]
