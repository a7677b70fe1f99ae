"""Where the time of a curriculum goes: the four stages of a variant as `make train` runs them.

Each stage is its own script's `main` in a process of its own. Nested parts count once, for the
innermost. Evaluation compiles, too; only the compilation of training steps is told apart.
"""

from __future__ import annotations

import importlib
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

from benchmarks import STARTED
from benchmarks.child import in_new_process
from systems.errors import InputError, say
from systems.files import write_json
from systems.provenance import made
from utils.checkpoint import stage_directory
from utils.training.phases import PREFIXES, STAGES
from utils.training.stage import script_module

IMPORTS, COMPILATION, REST = "imports", "compilation", "rest"
# What is timed, by its module and name.
PARTS = {
    "recording": ("utils.training.curriculum.record",),
    "controlled pixels": ("utils.training.curriculum.find_controlled",),
    "network and data": ("utils.training.curriculum.Run",),
    "pretraining": ("utils.training.pretraining.fit",),
    "handover": ("utils.training.pretraining.hand_over",),
    "training": ("utils.training.run.fit",),
    "validation": ("utils.training.run.Run._validate",),
    "TensorBoard": (
        "utils.training.watch.Watch.epoch",
        "utils.training.watch.Watch.pretraining",
    ),
    "saving": ("utils.training.run.save_weights", "utils.training.resume.Resume.save"),
    "evaluation": ("utils.training.report.end",),
}


class Clock:
    """Seconds by part, since this process began."""

    def __init__(self):
        self.seconds: dict[str, float] = defaultdict(float)
        self._running, self._since = [IMPORTS], STARTED

    def switch(self, part: str) -> None:
        """Gives the time until now to the part that runs, and goes on with another in its place."""
        now = time.perf_counter()
        self.seconds[self._running[-1]] += now - self._since
        self._running[-1], self._since = part, now

    def within(self, part: str, function: Any) -> Any:
        """The function, whose time is the part's."""

        def timed(*arguments, **named):
            self.switch(self._running[-1])
            self._running.append(part)
            try:
                return function(*arguments, **named)
            finally:
                self.switch(part)
                self._running.pop()

        return timed

    def first_steps(self, part: str, fit: Any) -> Any:
        """`utils.training.batches.fit`, in which a model's first step is its compilation."""
        compiled = []

        def timed(model, windows, first, count, progress):
            # New windows come with a new optimizer.
            if any(windows is known for known in compiled):
                return self.within(part, fit)(model, windows, first, count, progress)
            compiled.append(windows)
            show = progress.on_train_batch_end

            def first_ends(batch, logs=None):
                if batch == 0:
                    self.switch(part)
                show(batch, logs)

            progress.on_train_batch_end = first_ends
            return self.within(COMPILATION, fit)(model, windows, first, count, progress)

        return timed


def stage(module: str, flags: list[str]) -> dict[str, float]:
    """Trains a stage; returns its seconds by part.

    Args:
        module: of its script.
        flags: of the script.
    """
    from utils.start import import_keras
    from utils.training import stage as stages

    import_keras()
    facts = importlib.import_module(module).STAGE
    clock = Clock()
    with _timed(clock):
        stages.main(facts, flags)
    clock.switch(REST)
    return dict(clock.seconds)


@contextmanager
def _timed(clock: Clock) -> Iterator[None]:
    """Puts the clock around the parts."""
    with ExitStack() as patches:
        for part, names in PARTS.items():
            for name in names:
                owner, attribute = _owner(name)
                function = getattr(owner, attribute)
                timed = clock.first_steps if attribute == "fit" else clock.within
                patches.enter_context(mock.patch.object(owner, attribute, timed(part, function)))
        run = importlib.import_module("utils.training.curriculum")
        patches.enter_context(mock.patch.object(run, "run", clock.within(REST, run.run)))
        yield


def _owner(name):
    """The module or class that has what is named, and the name it has there."""
    path, attribute = name.rsplit(".", 1)
    try:
        return importlib.import_module(path), attribute
    except ModuleNotFoundError:
        module, owner = path.rsplit(".", 1)
        return getattr(importlib.import_module(module), owner), attribute


def measure(
    game: str,
    variant: str,
    model: str,
    policy: str,
    num_training_frames: int,
    output: Path | None,
    data_path: Path | None = None,
    train_dir: Path | None = None,
    more: Mapping[str, Sequence[str]] | None = None,
) -> list[dict]:
    """Trains the four stages and prints a line of each.

    Args:
        game: canonical name.
        variant: "paper" or "compression".
        model: preset.
        policy: who plays while the game is recorded.
        num_training_frames: of the training set.
        output: JSON file.
        data_path: where data sets lie; None: they are recorded, and thrown away.
        train_dir: where stages are kept; None: they are thrown away.
        more: other flags of some stages.

    Returns:
        a row for each stage: stage, and seconds by part.

    Raises:
        InputError: a stage is there already, so its training would take no time.
    """
    stages = {name: f"{PREFIXES[variant]}_{name}" for name in STAGES}
    for stage_name in stages.values() if train_dir else ():
        directory = stage_directory(train_dir, game, model, stage_name)
        if directory.exists():
            raise InputError(
                f"expected --train_dir without trained stages, because these would take no time, "
                f"received {directory}. Remove it, or name another directory."
            )
    rows = []
    with TemporaryDirectory() as directory:
        shared = [f"--atari_game={game}", f"--model={model}", f"--policy={policy}"]
        shared.append(f"--num_training_frames={num_training_frames}")
        shared.append(f"--train_dir={(train_dir or Path(directory, 'trained')).absolute()}")
        shared.append(f"--data_path={(data_path or Path(directory)).absolute()}")
        for name, stage_name in stages.items():
            module = script_module(stage_name)
            flags = [*shared, *(more or {}).get(name, ())]
            seconds = in_new_process("clock.stage", module=module, flags=flags)
            rows.append({"stage": name, "seconds": seconds})
            parts = ", ".join(
                f"{part} {spent:.0f}" for part, spent in seconds.items() if spent >= 0.5
            )
            say(f"{module}: {sum(seconds.values()):.0f} s: {parts}")
            if output:
                what = {"game": game, "variant": variant, "model": model, "policy": policy}
                what["num_training_frames"] = num_training_frames
                write_json(output, {"made": made(training=1, weights=0), **what, "rows": rows})
    return rows
