"""One writer at a time: two processes that append to one file would give each other's results."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from nabla_eval.errors import DataError
from nabla_eval.terminal import LOGGER

PATIENCE = 10.0  # seconds that a process may take to end after it was told to, or killed


@contextmanager
def sole_writer(folder: Path, file: str = "run") -> Iterator[None]:
    """Be the only process that writes a file of a folder, until the block ends or the process does.

    The folder is made where it is missing. The operating system holds the lock (of `.FILE.lock`),
    so a killed process leaves none behind. Where a file system has no locks, a warning says so and
    nothing is refused. Raises `DataError` where another process is at it and stays so for
    `PATIENCE` seconds, which one that is ending does not.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f".{file}.lock", thread_local=False)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            LOGGER.warning("Another process is writing to %s: waiting for its end.", folder)
            lock.acquire(timeout=PATIENCE)
    except Timeout:
        raise DataError(
            f"Another process is writing to {folder} at this moment. Wait until it has ended (the "
            "same command then continues from what it did), or choose another folder."
        ) from None
    except (NotImplementedError, OSError, ValueError) as error:  # ValueError: a NUL in the name
        without_locks = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
        unsupported = getattr(error, "errno", None) in without_locks
        if not (unsupported or isinstance(error, NotImplementedError)):
            raise DataError(f"Cannot write {folder}: {error}. Choose another folder.") from error
        LOGGER.warning("%s cannot be locked (%s): let no two runs write to it.", folder, error)
        yield
        return
    try:
        yield
    finally:
        lock.release()
