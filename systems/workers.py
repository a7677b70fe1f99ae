"""Worker processes that answer their parent's requests and end when it ends.

They are plain subprocesses. Threads would take turns, because ALE keeps Python's lock while it
emulates. `multiprocessing` would import the caller's main script, and with it TensorFlow, into
every worker. Its workers also outlive a parent that is killed.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from systems.errors import InputError, one_line

_ROOT = str(Path(__file__).parents[1])


def _path():
    """Where this process looks for modules."""
    return [place or os.getcwd() for place in sys.path]


class Worker:
    """The parent's side of a worker process.

    Args:
        module, function: what the process runs, without arguments. It begins with `parent()`.
        arguments: what `parent()` hands to it.

    Attributes:
        connection: becomes readable when `receive` has something to receive.
        process: the worker process.

    Raises:
        InputError: the system starts no more processes.
    """

    PATIENCE = 10.0  # seconds to wait for a process that should be ending

    def __init__(self, module: str, function: str, *arguments: str) -> None:
        try:
            self.connection, their_end = Pipe()
            with their_end:
                self.process = subprocess.Popen(
                    [
                        *(
                            sys.executable,
                            "-P",
                            "-c",
                            f"from {module} import {function}; {function}()",
                        ),
                        *(str(their_end.fileno()), *arguments),
                    ],
                    # It imports what this process could, from here: an environment's package, say.
                    env={**os.environ, "PYTHONPATH": os.pathsep.join([_ROOT, *_path()])},
                    pass_fds=[their_end.fileno()],
                    # A Ctrl-C in the terminal is for the parent, which then stops its workers.
                    start_new_session=True,
                )
        except OSError as error:
            raise InputError(
                f"expected to start a process that plays, but the system says: {one_line(error)}. "
                "Use fewer workers."
            ) from error

    def send(self, message: Any) -> None:
        """Sends a request."""
        with self._death_explained():
            self.connection.send(message)

    def receive(self) -> Any:
        """Waits for an answer.

        Raises:
            InputError: the worker raised it in place of an answer.
            RuntimeError: the worker ended.
        """
        with self._death_explained():
            answer = self.connection.recv()
        if isinstance(answer, InputError):
            raise answer
        return answer

    def stop(self) -> None:
        """Ends the process, whatever it is doing."""
        self.connection.close()
        self.process.kill()
        # A process that hangs inside the system cannot be killed. It is left to the system.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(self.PATIENCE)

    @contextlib.contextmanager
    def _death_explained(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, OSError):
            try:
                code = self.process.wait(self.PATIENCE)
                cause = f"signal {-code}" if code < 0 else f"exit code {code}, its error is above"
            except subprocess.TimeoutExpired:
                self.stop()
                cause = "it closed its pipe and went on"
            raise RuntimeError(
                f"a process that was playing episodes ended early ({cause}). "
                "If it was killed for want of memory, use fewer workers."
            ) from None


@contextlib.contextmanager
def parent() -> Iterator[tuple[Connection, list[str]]]:
    """The worker's side: the connection to the parent, and the arguments of `Worker`.

    The block ends without an error when the parent goes away. An `InputError` in it becomes the
    answer to every request, until then.
    """
    file_descriptor, *arguments = sys.argv[1:]
    # EOFError and ConnectionError: the parent has what it needs, or was killed.
    with Connection(int(file_descriptor)) as them, contextlib.suppress(EOFError, ConnectionError):
        try:
            yield them, arguments
        except InputError as error:
            # As text, because what is made of other arguments could not be read from the pipe.
            refusal = InputError(str(error))
            # The worker stays, so that the parent can send until it reads this.
            while True:
                them.send(refusal)
                them.recv()


def require_parent(connection: Connection) -> None:
    """Raises EOFError if the parent has gone. Long answers call it now and then."""
    if connection.poll():  # the parent sends nothing before it has the answer
        connection.recv()


def answers(
    num_workers: int, jobs: list, module: str, function: str, *arguments: str
) -> Iterator[tuple]:
    """Yields each job with its answer, in the order of the answers. Jobs begin in their own order.

    Args:
        num_workers: how many processes there are at most.
        jobs: what is sent, each to one worker.
        module, function, arguments: as `Worker` takes them.

    Raises:
        InputError: a worker raised it in place of an answer.
        RuntimeError: a worker ended before its work did.
    """
    waiting = list(reversed(jobs))
    workers: list[Worker] = []
    try:
        for _ in range(min(num_workers, len(jobs))):
            workers.append(Worker(module, function, *arguments))
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
