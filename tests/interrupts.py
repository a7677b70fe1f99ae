"""Processes that tests interrupt, wait for, or let go wrong."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable


def heed_interrupts():
    """For Popen's preexec_fn, because what a shell runs in the background ignores SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_until(
    condition: Callable[[], bool], process: subprocess.Popen, seconds: float = 120
) -> None:
    """Waits while a process works towards a condition, and leaves it the core meanwhile."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the process ended too early"
        assert time.monotonic() < deadline, f"the condition did not hold within {seconds} s"
        time.sleep(0.02)


def hang_without_a_pipe():
    """For `systems.workers.Worker`: a process whose pipe breaks but which does not end."""
    os.close(int(sys.argv[1]))
    time.sleep(3600)
