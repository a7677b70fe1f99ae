"""Worker processes that do what the parent asks and go when it goes.

They are plain subprocesses. Threads would take turns, because ALE keeps Python's lock while it
emulates; `multiprocessing` would import the caller's main script, and with it TensorFlow, into
every worker, and its workers outlive a parent that is killed.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any


class Worker:
    """The parent's side of a worker process.

    Args:
        module: whose function `work` the process runs; it begins with `parent()`.
        arguments: what that is given.

    Attributes:
        connection: becomes readable when `receive` has something to receive.
    """

    def __init__(self, module: str, *arguments: str) -> None:
        self.connection, their_end = Pipe()
        with their_end:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-c", f"from {module} import work; work()"),
                    *(str(their_end.fileno()), *arguments),
                ],
                cwd=Path(__file__).parents[1],
                pass_fds=[their_end.fileno()],
                # A Ctrl-C in the terminal is for the parent, which then stops its workers.
                start_new_session=True,
            )

    def send(self, message: Any) -> None:
        """Asks for something."""
        with self._death_explained():
            self.connection.send(message)

    def receive(self) -> Any:
        """Waits for an answer."""
        with self._death_explained():
            return self.connection.recv()

    def stop(self) -> None:
        """Ends the process, whatever it is doing."""
        self.connection.close()
        self._process.kill()
        self._process.wait()

    @contextlib.contextmanager
    def _death_explained(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, OSError):
            code = self._process.wait()
            cause = f"signal {-code}" if code < 0 else f"exit code {code}, its error is above"
            raise RuntimeError(
                f"a process that was playing episodes ended early ({cause}); "
                "if it was killed for want of memory, use fewer workers"
            ) from None


@contextlib.contextmanager
def parent() -> Iterator[tuple[Connection, list[str]]]:
    """The worker's side: the connection to the parent, until that goes away, and the arguments."""
    file_descriptor, *arguments = sys.argv[1:]
    # EOFError and ConnectionError: the parent has what it needs, or was killed.
    with Connection(int(file_descriptor)) as them, contextlib.suppress(EOFError, ConnectionError):
        yield them, arguments


def require_parent(connection: Connection) -> None:
    """Raises what `parent` expects if the parent has gone; for between long steps of an answer."""
    if connection.poll():  # nothing is sent before the answer
        connection.recv()


def answers(num_workers: int, jobs: list, module: str, *arguments: str) -> Iterator[tuple]:
    """Each job and what a worker answers when it is sent that, as they come; begun in order.

    Args:
        num_workers: how many processes there are at most.
        jobs: what they are sent.
        module, arguments: as `Worker` takes them.

    Raises:
        RuntimeError: if a worker ends before its work does.
    """
    waiting = list(reversed(jobs))
    workers = [Worker(module, *arguments) for _ in range(min(num_workers, len(jobs)))]
    try:
        busy = {}
        while waiting or busy:
            for worker in workers:
                if waiting and worker.connection not in busy:
                    busy[worker.connection] = worker, waiting[-1]
                    worker.send(waiting.pop())
            for connection in wait(busy):
                worker, job = busy.pop(connection)
                yield job, worker.receive()
    finally:
        for worker in workers:
            worker.stop()
