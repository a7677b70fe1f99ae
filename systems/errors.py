"""How the user is told that something they gave cannot be used."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

_DEVICES = Path("/dev"), Path("/dev/fd")


class InputError(ValueError):
    """What the user gave cannot be used.

    The text stands alone: what was expected, what was received, and what to do about it.
    """


@contextlib.contextmanager
def exit_on_input_error() -> Iterator[None]:
    """Ends a script with a message on stderr: exit code 2 for an `InputError`, 130 for Ctrl-C."""
    _replace_closed_streams()
    try:
        yield
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def _replace_closed_streams():
    """Opens the null device in place of a closed stdout or stderr, as some daemons close them."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - open as long as the process


def say(text: str) -> None:
    """Prints to stdout at once. Where nobody reads it any more (`| head -1`) the work goes on."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        _drop_output()


def _drop_output() -> None:
    """Sends what is printed from now on nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def one_line(error: Exception) -> str:
    """Returns the start of another library's message on one line, to be quoted in ours."""
    return " ".join(str(error).split())[:300]


def check_writable(path: Path) -> None:
    """Refuses a path that cannot be written, before hours are spent on its content.

    A device, such as /dev/stdout, and a named pipe are written into.

    Raises:
        InputError: its directory does not exist or cannot be written to, or it is a directory, a
            disk or a socket.
    """
    if is_special(path):
        mode = path.stat().st_mode
        if stat.S_ISBLK(mode) or stat.S_ISSOCK(mode) or not os.access(path, os.W_OK):
            raise InputError(f"expected a file that can be written, received {path}")
        return
    path = Path(os.path.realpath(path))  # a link stays, and what it names is replaced
    if not path.parent.is_dir():
        raise InputError(f"expected a directory to write {path} to: {path.parent} is none")
    if path.is_dir():
        raise InputError(f"expected the name of a file to write, received the directory {path}")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"expected a directory that can be written to, received {path.parent}")


def is_special(path: Path) -> bool:
    """Returns whether a path names a device, a pipe or a socket, which no file may replace."""
    if not path.exists() or path.is_dir():
        return False
    # Not all of /dev: /dev/shm holds usual files.
    return not path.is_file() or Path(os.path.abspath(path)).parent in _DEVICES


def user_path(text: str) -> Path:
    """The argparse type of a path. `~` is the home directory, which shells leave alone after `=`.

    Raises:
        argparse.ArgumentTypeError: there is no such user.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f"expected a path, received {text!r}: {error}") from error


def whole_number(minimum: int, maximum: float = math.inf) -> Callable[[str], int]:
    """Returns the argparse type of a flag that takes whole numbers from `minimum` to `maximum`."""

    def parse(text):
        try:
            value = int(text)
        except ValueError:
            value = minimum - 1
        if not minimum <= value <= maximum:
            most = "" if maximum == math.inf else f" and at most {maximum}"
            raise argparse.ArgumentTypeError(
                f"expected a whole number of at least {minimum}{most}, received {text!r}"
            )
        return value

    return parse


def number_from_zero(text: str) -> float:
    """The argparse type of a flag that takes a finite number, 0 or above."""
    value = _number(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number of at least 0, received {text!r}")
    return value


def positive_number(text: str) -> float:
    """The argparse type of a flag that takes a finite number above 0."""
    value = _number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, received {text!r}")
    return value


def probability(text: str) -> float:
    """The argparse type of a flag that takes a number from 0 to 1."""
    value = _number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, received {text!r}")
    return value


def _number(text):
    try:
        return float(text)
    except ValueError:
        return math.nan  # no interval holds it
