"""Writing files whole, and locks between processes.

A file or directory appears under its final name only when it is complete and on the disk. Until
then it has a hidden name that begins with `.partial-`.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock

from systems.errors import InputError, is_special, one_line

PARTIAL = ".partial-"


def num_cores() -> int:
    """Returns how many cores this process may use. `taskset` or a cpuset may allow only some."""
    if hasattr(os, "sched_getaffinity"):  # macOS has none
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def system_reason(error: Exception) -> str | None:
    """Returns what the system said when it refused to write; None for another kind of error.

    HDF5 and TensorFlow wrap the system's error in one of their own, with a page of text.
    """
    text = str(error)
    if from_hdf5 := re.search(r"error message = '(.+?)'", text):
        return from_hdf5[1]
    if isinstance(error, OSError):
        return error.strerror or one_line(error)
    return one_line(error) if _REFUSALS.search(text) else None


# The system's own words, which the errors of TensorFlow, HDF5 and FFmpeg quote.
_REFUSALS = re.compile(
    "|".join(
        re.escape(os.strerror(number))
        for number in (
            errno.ENOSPC,
            errno.EFBIG,
            errno.EDQUOT,
            errno.EROFS,
            errno.EACCES,
            errno.EIO,
            errno.ENOENT,
        )
    )
)


@contextlib.contextmanager
def refusals_explained(
    path: Path, advice: str = "make room or choose another directory"
) -> Iterator[None]:
    """Turns the system's refusal to write into one clear error. Other errors pass unchanged.

    Args:
        path: what is being written.
        advice: what the user can do about it, the rest of a sentence.

    Raises:
        InputError: the system refused.
    """
    try:
        yield
    except (InputError, KeyboardInterrupt):
        raise
    except Exception as error:
        reason = system_reason(error)
        if reason is None:
            raise
        raise InputError(
            f"expected to write {path}, but the system says: {reason}. What was there before is "
            f"untouched. Check the disk's free space and permissions, {advice}, and run the same "
            "command again."
        ) from error


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Writes a file under another name and renames it once it is on the disk.

    Several processes may write the same file: each has a name of its own, and the last one wins.
    A symbolic link stays, and what it names is replaced. A device or pipe is written into.

    Args:
        path: the final name.
        write: makes the file under the name that it is given, which has the suffix of `path`.

    Raises:
        InputError: the system refused.
    """
    if is_special(path):
        _write_into(path, write)
        return
    path = Path(os.path.realpath(path))
    partial = _partial(path)
    with refusals_explained(path):
        try:
            write(partial)
            sync(partial)
            os.replace(partial, path)
            sync(path.parent)
        finally:
            partial.unlink(missing_ok=True)


def _write_into(path, write):
    """Writes a file elsewhere and copies its content to the end of `path`."""
    with refusals_explained(path), tempfile.TemporaryDirectory() as directory:
        whole = Path(directory, path.name)
        write(whole)
        with open(whole, "rb") as content, _opened(path) as special:
            shutil.copyfileobj(content, special)


def _opened(path):
    """Opens a device or pipe. /dev/stdout is this process' own, with all that it has printed."""
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):  # it is closed
            if os.path.samestat(path.stat(), os.fstat(descriptor)):
                return os.fdopen(os.dup(descriptor), "wb")
    return open(path, "ab")


def _partial(path):
    """Returns a hidden name beside `path` that no other writer uses.

    It keeps the suffix, because Keras chooses the format by it.
    """
    return path.with_name(f"{PARTIAL}{secrets.token_hex(4)}-{path.name}")


def _partial_of(name):
    """Returns the final name of what `_partial` named; None for other names."""
    match = re.fullmatch(rf"{re.escape(PARTIAL)}[0-9a-f]{{8}}-(.+)", name)
    return match and match[1]


def write_json(path: Path, content: dict | list) -> None:
    """Writes a JSON file whole. NaN and infinities become null, because JSON has none."""
    text = json.dumps(finite(content), indent=2, allow_nan=False) + "\n"
    write_whole(path, lambda partial: partial.write_text(text))


def finite(content):
    """Returns the same lists and dicts with None in place of NaN and infinities."""
    if isinstance(content, dict):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [finite(value) for value in content]
    if isinstance(content, float) and content - content != 0:
        return None
    return content


def sync(path: Path) -> None:
    """Returns when a file, or a directory's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Removes a file, a symbolic link, or a directory with all it holds."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


@contextlib.contextmanager
def lock(path: Path, waiting_for: str | None = None) -> Iterator[bool]:
    """Holds a lock file. The lock ends with the process, however that ends.

    The file itself stays, because a process that waits for the lock must find the same file. It is
    opened for writing, because locks over NFS require that.

    Args:
        path: of the lock file, whose directory exists.
        waiting_for: what another holder is making, to tell the user. None: do not wait.

    Yields:
        whether the lock is held; False if the file system has no locks.

    Raises:
        filelock.Timeout: another process holds it, and `waiting_for` is None.
        OSError: the lock file cannot be written.
    """
    # filelock's own substitute for missing locks would survive a process that is killed.
    file_lock = filelock.FileLock(path, fallback_to_soft=False)
    try:
        try:
            file_lock.acquire(timeout=0)
        except filelock.Timeout:
            if waiting_for is None:
                raise
            print(f"waiting for another process that is making {waiting_for}", file=sys.stderr)
            file_lock.acquire()
    except OSError as error:
        if error.errno not in _NO_LOCKS:  # filelock.Timeout has no number at all
            raise
        print(
            f"note: {path.parent} is on a file system without locks ({error.strerror}). Make sure "
            "that no other process writes there.",
            file=sys.stderr,
        )
    try:
        yield file_lock.is_locked
    finally:
        file_lock.release()


# What file systems without locks answer: NFS, some FUSE and cluster file systems.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)


@contextlib.contextmanager
def workspace(path: Path) -> Iterator[Path]:
    """Yields an empty directory beside `path` in which to make it, and removes it at the end.

    One process at a time makes `path`; the others wait. The next process removes what a killed one
    left behind, but only under the lock. Without locks the owner may still be at work.

    Args:
        path: what is to be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with lock(path.with_name(f".{path.name}.lock"), str(path)) as held:
        if held:
            for leftover in path.parent.iterdir():
                if _partial_of(leftover.name) == path.name:
                    remove(leftover)
        directory = _partial(path)
        try:
            directory.mkdir()
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)
