"""Processes that can be interrupted wherever the tests run."""

import signal


def heed_interrupts():
    """For Popen's preexec_fn: what a shell runs in the background ignores them by default."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
