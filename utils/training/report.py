"""What a training says at its beginning and at its end."""

from __future__ import annotations

import dataclasses
import itertools
import resource
import shlex
import sys

import keras

from systems.errors import say
from utils.checkpoint import Checkpoint, digest
from utils.training.command_line import StageConfig
from utils.training.expected_time import expected_seconds, in_words, is_slow_here
from utils.training.phases import STAGES
from utils.training.run import Run
from utils.training.watch import HORIZONS
from utils.watching import evaluation

# Each stage's successor, by the last part of its name.
_NEXT = dict(itertools.pairwise(STAGES))


def begin(run: Run) -> None:
    """Says what is about to be trained, with what and on what."""
    settings, training, state = run.settings, run.training, run.state
    parameters = run.model.network.count_params()
    frames = ", ".join(f"{dataset.lengths.sum():,} {role}" for role, dataset in run.data.items())
    say(
        f"{settings.stage}: {settings.game}, {settings.model}, {parameters / 1e6:.0f} million "
        f"parameters\n"
        f"computing on {_device()} by {keras.backend.backend()}, {training.precision}\n"
        f"frames of play: {frames}"
    )
    if run.resumed:
        of = "" if state.step else " of pretraining"
        say(f"going on after step {state.step or state.pretraining_steps}{of}")
    seconds = expected_seconds(settings, state.pretraining_steps, state.step)
    say(f"expected time: {in_words(seconds)}")
    if is_slow_here(settings):
        say(
            f"note: {settings.model} predicts full frames, which is slow without a GPU. "
            "--model=lstm_84x84x1 is the preset for processors."
        )


def _device():
    """The devices that Keras computes on, such as `2 x gpu`."""
    kinds = [device.split(":")[0] for device in keras.distribution.list_devices()]
    return ", ".join(f"{kinds.count(kind)} x {kind}" for kind in dict.fromkeys(kinds))


def end(config: StageConfig, run: Run) -> None:
    """Measures the best weights on the test set, marks the stage as finished and says so."""
    settings, state = run.settings, run.state
    results = _results_before(run) or _measure(run)
    finished = dataclasses.replace(settings, results=results, steps=state.step, finished=True)
    finished.write(run.directory)
    run.resume.clear()
    if not settings.training.max_steps:
        say(f"{run.directory}: finished after pretraining")
    else:
        say(f"{run.directory}: finished after {state.step} steps")
        _say_which_are_best(settings, state)
    say(f"peak memory: {_peak_memory():.1f} GB")
    _print_results(config, results)


def _peak_memory():
    """The most memory that this process has held at once, in gigabytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e9 * (1 if sys.platform == "darwin" else 1024)


def _say_which_are_best(settings, state):
    if state.best_step:
        say(f"the best weights by validation loss are those after step {state.best_step}")
    else:
        began = "pretraining" if settings.training.pretraining_steps else settings.restored_from
        say(f"note: no epoch improved the validation loss, so the weights of {began} are kept")


def _measure(run):
    roll_out, palette = run.load_best(), run.data["test"].palette()
    windows = run.windows.measured("test")
    results, _ = evaluation.evaluate(roll_out, windows, run.settings.warmup, HORIZONS, palette)
    return results


def _results_before(run):
    """What the stage before measured, of the weights and windows of this one; None otherwise."""
    settings = run.settings
    if run.state.best_step or settings.training.pretraining_steps or not settings.restored_from:
        return None
    directory = settings.restored_from
    if digest(directory) != settings.restored_weights:
        return None
    before = Checkpoint(directory).config
    alike = (
        before.data == settings.data
        and before.versions == settings.versions
        and before.training.batch_size == settings.training.batch_size
        and before.training.precision == settings.training.precision
    )
    return before.results if alike else None


def already_finished(config: StageConfig, checkpoint: Checkpoint) -> None:
    """Says that a stage is finished, and what came of it."""
    say(f"{config.directory} is finished; --overwrite trains it again")
    if reason := checkpoint.superseded():
        say(f"note: {reason}")
    _print_results(config, checkpoint.config.results)


def _print_results(config, results):
    say(f"test play, {results['num_windows']} windows, mean squared error in grey levels squared:")
    say(evaluation.table(results))
    if config.stage.reward_weight:
        say(evaluation.reward_lines(results))
    variant, _, name = config.stage.name.partition("_")
    if name in _NEXT:
        say(f"next: {config.command(f'{variant}_{_NEXT[name]}')}")
    else:
        directory = shlex.quote(str(config.directory))
        say(f"next: python generate_video.py --checkpoint {directory} --video clip.mp4")
