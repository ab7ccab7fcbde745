"""Opening the database of a study, and going on where its connection breaks off."""

from __future__ import annotations

import logging
import random
import sqlite3
import time
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import sqlalchemy as sa
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage, GrpcStorageProxy, RDBStorage
from sqlalchemy.engine import make_url
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    IntegrityError,
    NoSuchModuleError,
    NotSupportedError,
    ProgrammingError,
)

from dicenas.runs import RunFolder

__all__ = [
    "PATIENCE_S",
    "SHORT_PATIENCE_S",
    "STORAGE_ERRORS",
    "Patience",
    "StorageLostError",
    "board_engine",
    "hide_password",
    "making_tables",
    "open_proxy",
    "open_storage",
    "open_study_db",
    "retrying",
]

logger = logging.getLogger(__name__)


def _storage_errors() -> tuple[type[Exception], ...]:
    try:
        import grpc
    except ImportError:  # then there is no proxy either
        return StorageInternalError, DBAPIError
    return StorageInternalError, DBAPIError, grpc.RpcError


#: What a database that is away, busy or restarting raises through Optuna and SQLAlchemy, and Optuna's proxy before it.
STORAGE_ERRORS = _storage_errors()

#: How long to go on asking a server that answered before, in seconds: its machine may be started again meanwhile.
PATIENCE_S = 900.0
#: How long to go on asking at the start, where the address may be wrong, and for a file, which nobody starts again.
SHORT_PATIENCE_S = 60.0
# Waits double from the first to the longest.
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.25, 15.0
_BUSY_TIMEOUT_S = 60
_CONNECT_TIMEOUT_S = 10

# Of processes that make the tables of an empty database at the same moment, each may find some of them made meanwhile.
_MOST_COLLISIONS = 20
_COLLISIONS = ("already exists", "duplicate")
_COLLISION_WAIT_S = 0.2

# A refusal, which no waiting changes. The words of PostgreSQL, MySQL and sqlite.
_REFUSALS = (
    "authentication failed",
    "access denied",
    "does not exist",
    "unknown database",
    "no password supplied",
    "unable to open database file",
    "disk is full",
)
# A name without an address: a mistake at the start, later a trouble of the network, or of a server that moves.
_NO_ADDRESS = ("could not translate host name", "failed to resolve host", "name or service not known")

_Result = TypeVar("_Result")


class StorageLostError(OSError):
    """The database of a study did not answer, however often it was asked."""


def hide_password(url: str) -> str:
    """Return the URL of a storage for people to read."""
    return make_url(url).render_as_string(hide_password=True)


def open_storage(url: str, *, patience_s: float = SHORT_PATIENCE_S) -> RDBStorage:
    """Open the database at a URL, with Optuna's tables in it.

    Args:
        url: ``sqlite:///FILE``, ``postgresql://USER:PASSWORD@HOST/DATABASE`` or ``mysql+pymysql://...``, as
            SQLAlchemy has it.
        patience_s: How long to go on asking a database that does not answer, in seconds.

    Raises:
        ValueError: The URL is none, its driver is not installed, or the database is of another version of Optuna.
        StorageLostError: The database refuses, or did not answer in time.
    """
    try:
        name = make_url(url).get_backend_name()
        shown = hide_password(url)
    except (ArgumentError, ValueError) as error:
        raise ValueError(
            f"storage {url!r} is no URL of a database; expected sqlite:///FILE, postgresql://USER:PASSWORD@HOST/NAME "
            "or mysql+pymysql://USER:PASSWORD@HOST/NAME"
        ) from error
    engine: dict[str, Any]
    if name == "sqlite":
        engine = {"connect_args": {"timeout": _BUSY_TIMEOUT_S}}
    else:
        # A connection that the server closed meanwhile is noticed when it is taken from the pool.
        engine = {"connect_args": {"connect_timeout": _CONNECT_TIMEOUT_S}, "pool_pre_ping": True}
    try:
        storage = retrying(lambda: _open(url, engine), f"storage {shown}", patience_s=patience_s)
    except (ImportError, NoSuchModuleError) as error:
        raise ValueError(
            f"storage {shown}: its driver is not installed ({' '.join(str(error).split())}); pip install "
            "'dicenas[distributed]' brings that of postgresql://..., 'dicenas[mysql]' that of mysql+pymysql://..."
        ) from error
    except RuntimeError as error:  # Optuna's word for tables of another version
        raise ValueError(f"storage {shown}: {' '.join(str(error).split())}") from error
    return storage


def _open(url: str, engine: dict[str, Any]) -> RDBStorage:
    storage = making_tables(lambda: RDBStorage(url, engine_kwargs=dict(engine)))
    if storage.engine.dialect.name == "sqlite":
        with storage.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        # Optuna commits some twenty times a trial, and none of that need be on the disk before the claim is: a process
        # that is killed loses nothing, and what a machine that loses power does comes before the claim in the log.
        _set_synchronous(storage.engine, "NORMAL")
        storage.engine.dispose()
    return storage


def making_tables(action: Callable[[], _Result]) -> _Result:
    """Return what an action gives that makes tables where they are missing, although others make them meanwhile.

    Args:
        action: Must not mind being done twice.
    """
    for _ in range(_MOST_COLLISIONS):
        try:
            return action()
        except DBAPIError as error:
            if not any(words in _reason(_source(error)).lower() for words in _COLLISIONS):
                raise
            time.sleep(_COLLISION_WAIT_S * random.random())
    return action()


def board_engine(storage: RDBStorage) -> sa.Engine:
    """Return connections of our own to the database of a storage; what is committed there is on the disk."""
    engine = sa.create_engine(storage.url, **storage.engine_kwargs)
    if engine.dialect.name == "sqlite":
        _set_synchronous(engine, "FULL")
    return engine


def _set_synchronous(engine: sa.Engine, level: str) -> None:
    def on_connect(connection: Any, record: object) -> None:
        connection.execute(f"PRAGMA synchronous={level}")

    sa.event.listen(engine, "connect", on_connect)


def open_proxy(address: str) -> BaseStorage:
    """Open a study through Optuna's gRPC proxy, which stands between many workers and their database.

    Args:
        address: ``HOST:PORT``.

    Raises:
        ValueError: The address is none, or gRPC is not installed.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"proxy {address!r}: expected HOST:PORT")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # since Optuna 4.2
            return GrpcStorageProxy(host=host, port=int(port))
    except ImportError as error:
        raise ValueError(
            f"proxy {address}: gRPC is not installed; pip install 'dicenas[distributed]' brings it"
        ) from error


def open_study_db(run: RunFolder) -> RDBStorage:
    """Return the Optuna storage in a run folder; a new one appears with all its tables or not at all.

    Raises:
        ValueError: The storage is damaged, or missing from a run that has trials.
    """
    if not run.storage_path.is_file():
        if numbers := run.trial_numbers():
            raise ValueError(
                f"{run.storage_path} is missing, and without it the run and its {len(numbers)} trials cannot go on; "
                "bring it back, name the storage that the run was started with, or remove the folder"
            )
        # A process that is killed while it makes the tables would leave some of them, and Optuna would not notice.
        new = run.storage_path.with_name(".study.db.new")
        for path in (new, *(new.with_name(f"{new.name}{end}") for end in ("-journal", "-wal", "-shm"))):
            path.unlink(missing_ok=True)
        storage = RDBStorage(f"sqlite:///{new.resolve()}")
        storage.remove_session()
        storage.engine.dispose()
        new.replace(run.storage_path)
    damages: tuple[type[Exception], ...] = (*STORAGE_ERRORS, StorageLostError)
    try:
        storage = open_storage(run.storage_url, patience_s=0)
        with storage.engine.connect() as connection:
            # A file that was cut off opens, and fails much later, when somebody asks for what is missing.
            found = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
        if found != "ok":
            raise StorageLostError(found)
    except damages as error:
        raise ValueError(f"{run.storage_path} is damaged; bring back a copy, or remove the folder ({error})") from error
    return storage


def retrying(action: Callable[[], _Result], what: str, *, patience_s: float = PATIENCE_S) -> _Result:
    """Return what an action gives, doing it again where the database does not answer.

    Args:
        action: Must not mind being done twice.
        what: What does not answer, for messages.
        patience_s: How long to go on, in seconds.

    Raises:
        StorageLostError: The database refused, or did not answer in time.
    """
    patience = Patience(what, patience_s)
    while True:
        try:
            return action()
        except STORAGE_ERRORS as error:
            patience.wait(error)


class Patience:
    """Waits between attempts at a database that does not answer, longer each time, and ends them after a while.

    Args:
        what: What does not answer, for messages.
        seconds: How long to go on; no longer than :data:`SHORT_PATIENCE_S` for sqlite.
    """

    def __init__(self, what: str, seconds: float = PATIENCE_S) -> None:
        self._what = what
        self._seconds = seconds
        self.renew()

    def renew(self) -> None:
        """Begin anew: the database answered."""
        self._since: float | None = None
        self._wait = _FIRST_WAIT_S

    def wait(self, error: Exception) -> None:
        """Wait before the next attempt.

        Args:
            error: One of :data:`STORAGE_ERRORS`; what is no matter of an answer is raised again.

        Raises:
            StorageLostError: The database refused, or did not answer for too long.
        """
        source = _source(error)
        reason = _reason(source)
        refusals = _REFUSALS if self._seconds > SHORT_PATIENCE_S else (*_REFUSALS, *_NO_ADDRESS)
        if any(words in reason.lower() for words in refusals):
            raise StorageLostError(f"{self._what} refuses: {reason}") from error
        inner = error if isinstance(error, DBAPIError) else error.__cause__
        # What else there is comes in the wake of a lost connection, such as a transaction that cannot go on.
        if isinstance(inner, DataError | IntegrityError | NotSupportedError | ProgrammingError):
            raise error
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        seconds = min(self._seconds, SHORT_PATIENCE_S) if isinstance(source, sqlite3.Error) else self._seconds
        if now + self._wait > self._since + seconds:
            raise StorageLostError(f"{self._what} does not answer: {reason}") from error
        logger.warning("%s does not answer, the next attempt is in %.2g s: %s", self._what, self._wait, reason)
        # Many workers that lost one database should not come back in step.
        time.sleep(self._wait * random.uniform(0.5, 1.0))
        self._wait = min(2 * self._wait, _LONGEST_WAIT_S)


def _source(error: BaseException) -> BaseException:
    """Return the error of the database's driver."""
    innermost = error
    while isinstance(innermost, StorageInternalError | DBAPIError):
        inner = innermost.orig if isinstance(innermost, DBAPIError) else innermost.__cause__
        if inner is None:
            break
        innermost = inner
    return innermost


def _reason(error: BaseException) -> str:
    """Return what a driver said, in one line."""
    if hasattr(error, "details"):  # gRPC's errors print as a page
        return f"gRPC proxy: {error.details()}"
    return " ".join(str(error).split()) or type(error).__name__
