"""Data-parallel training on several devices and several machines, on JAX.

Every device holds all weights and computes its share of each global batch. JAX sums the gradients.
Every process keeps a copy of the model for evaluation. The first process alone writes.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import keras
import numpy as np

from systems.errors import InputError, one_line

HEARTBEAT_SECONDS = 20  # a process that is silent for so long counts as dead
SHUTDOWN_SECONDS = 600  # how long finished processes wait for the first one's report
CONNECT_SECONDS = 300  # how far apart the processes may start


@dataclass(frozen=True)
class Devices:
    """What a run computes on.

    Attributes:
        data_parallel: over all devices of all processes; None for a single device.
        num_devices: of all processes together.
        process: this process' number, from 0. Process 0 writes.
        num_processes: of the run.
    """

    data_parallel: keras.distribution.DataParallel | None = None
    num_devices: int = 1
    process: int = 0
    num_processes: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.process == 0

    def scope(self) -> contextlib.AbstractContextManager:
        """The context in which models are made, trained and evaluated in parallel."""
        return self.data_parallel.scope() if self.data_parallel else contextlib.nullcontext()

    def share(self, windows: dict) -> dict:
        """This process' share of a batch, equal for each device. What is left over is dropped.

        Raises:
            InputError: there are fewer windows than devices.
        """
        count = len(windows["actions"]) // self.num_devices * self.num_devices
        if not count:
            raise InputError(
                f"expected at least one validation window for each of {self.num_devices} devices, "
                f"received {len(windows['actions'])}. Record more frames."
            )
        size = count // self.num_processes
        part = slice(self.process * size, (self.process + 1) * size)
        return {key: value[part] for key, value in windows.items()}

    def wait(self) -> None:
        """Waits for the other processes."""
        if self.num_processes > 1:
            from jax.experimental import multihost_utils

            multihost_utils.sync_global_devices("wait")

    def first_then_others(self, make: Callable[[], None]) -> None:
        """Has the first process make files, and then the others what they still miss.

        On a disk that they share there is nothing left for the others to make.
        """
        if self.first:
            make()
        self.wait()
        if not self.first:
            make()
        self.wait()

    def broadcast(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """The first process' arrays, in all processes."""
        if self.num_processes == 1:
            return arrays
        from jax.experimental import multihost_utils

        return multihost_utils.broadcast_one_to_all(arrays)

    def agree(self, what: str, advice: str) -> None:
        """Makes sure that all processes say the same.

        Args:
            what: what this process says.
            advice: what the user can do if another one says something else.

        Raises:
            InputError: they do not agree.
        """
        if self.num_processes == 1:
            return
        from jax.experimental import multihost_utils

        said = multihost_utils.process_allgather(np.uint32(zlib.crc32(what.encode())))
        if len(set(said.tolist())) > 1:
            raise InputError(f"expected all processes to agree, this one has {what}. {advice}")


def initialise(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> Devices:
    """Finds the devices and the other processes. Has to come before anything is computed.

    What is None is taken from Keras' environment variables KERAS_DISTRIBUTION_JOB_ADDRESSES,
    _NUM_PROCESSES and _PROCESS_ID, or from a scheduler that JAX knows (Slurm, Open MPI, Kubernetes,
    cloud TPUs). Without any of them the process is alone, with all devices of its machine.

    Args:
        coordinator: host:port of the first process, whose port has to be free.
        num_processes: how many processes the run has.
        process_id: which of them this one is, from 0.

    Raises:
        InputError: the backend is not JAX, or the processes do not find each other.
    """
    if keras.backend.backend() != "jax":
        raise InputError(
            "expected Keras to run on JAX for --distribute, but it runs on "
            f"{keras.backend.backend()}. Install jax and start the script as "
            "KERAS_BACKEND=jax python ..."
        )
    import jax

    addresses = coordinator or os.environ.get("KERAS_DISTRIBUTION_JOB_ADDRESSES")
    given = {
        "--coordinator": addresses and addresses.split(",")[0],
        "--num_processes": _number(num_processes, "KERAS_DISTRIBUTION_NUM_PROCESSES"),
        "--process_id": _number(process_id, "KERAS_DISTRIBUTION_PROCESS_ID"),
    }
    missing = [flag for flag, value in given.items() if value is None]
    if 0 < len(missing) < len(given):
        raise InputError(
            f"expected all of {', '.join(given)} or none, received no {' and no '.join(missing)}."
        )
    address, count, number = given.values()
    if number is not None and not 0 <= number < count:
        raise InputError(
            f"expected --process_id in 0..{count - 1} of --num_processes={count}, received {number}"
        )
    if address and not address.rpartition(":")[2].isdigit():
        raise InputError(f"expected --coordinator as host:port, received {address!r}")
    try:
        jax.distributed.initialize(
            address,
            count,
            number,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
            initialization_timeout=CONNECT_SECONDS,
        )
    except ValueError:
        # There is no scheduler either, so this process is alone.
        if address:
            raise
    except RuntimeError as error:
        raise InputError(
            f"expected process 0 of {count} at --coordinator={address}, but: {one_line(error)}"
        ) from error
    return Devices(
        keras.distribution.DataParallel(auto_shard_dataset=False),
        jax.device_count(),
        jax.process_index(),
        jax.process_count(),
    )


def _number(flag, variable):
    if flag is None and variable in os.environ:
        try:
            return int(os.environ[variable])
        except ValueError as error:
            raise InputError(
                f"expected a number in {variable}, received {os.environ[variable]!r}"
            ) from error
    return flag


def _of_the_others(error):
    """Whether an error says that another process is gone: not that this one lacks memory, say."""
    import jax

    if "Gloo" in str(error):
        return True
    own = ("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT", "UNIMPLEMENTED", "FAILED_PRECONDITION")
    return isinstance(error, jax.errors.JaxRuntimeError) and not str(error).startswith(own)


@contextlib.contextmanager
def leave_at_once(again: Callable[[], str]) -> Iterator[None]:
    """Ends this process without waiting for the others when it fails or another one is gone.

    Args:
        again: tells the command that resumes the run.
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        if keras.backend.backend() != "jax":
            raise
        import jax

        if not jax.distributed.is_initialized():
            raise
        if isinstance(error, SystemExit):
            code = error.code
            if isinstance(code, str):
                print(code, file=sys.stderr)
                code = 1
        elif _of_the_others(error):
            code = 1
            print(
                f"\nerror: expected all {jax.process_count()} processes to be there, but one has "
                f"ended or cannot be reached ({one_line(error)}). Start all of them again: "
                f"{again()} goes on after the last whole epoch.",
                file=sys.stderr,
            )
        else:
            code = 1
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        # Not sys.exit, because on the way out JAX would wait for the other processes.
        os._exit(code)
