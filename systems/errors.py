"""How the user is told that something they gave cannot be used."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator


class InputError(ValueError):
    """What the user gave cannot be used.

    The text stands alone: what was expected, what was received, and what to do about it.
    """


@contextlib.contextmanager
def exit_on_input_error() -> Iterator[None]:
    """Ends a script with one line on stderr and exit code 2 where an `InputError` reaches it."""
    try:
        yield
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
