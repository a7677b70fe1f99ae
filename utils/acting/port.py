"""The port that `play.py` serves at. Nothing slow is imported here, so that it is tried first."""

from __future__ import annotations

import socket

from systems.errors import InputError

HOST = "127.0.0.1"


def listen(port: int) -> socket.socket:
    """Opens a port of 127.0.0.1; 0 takes a free one.

    Raises:
        InputError: the port is taken or does not exist.
    """
    try:
        return socket.create_server((HOST, port))
    except (OSError, OverflowError) as error:
        raise InputError(
            f"expected a free port, but listening on {port} failed: {error}. "
            "Give another one by --port."
        ) from error
