"""What is shown of a run while it trains: TensorBoard's plots and clips, and `history.csv`."""

from __future__ import annotations

import csv
import dataclasses
import io
import time
from pathlib import Path

import numpy as np

from model.predictor import RollOut
from model.pretraining import Pretraining, PretrainingRollOut
from systems.files import write_whole
from utils.config import CheckpointConfig
from utils.training.resume import RunState
from utils.training.stage_windows import LONGEST_HORIZON
from utils.watching import evaluation, video
from utils.watching.tensorboard import Logs

# Steps whose errors are plotted while training and reported after it.
HORIZONS = (1, 3, 5, 10, LONGEST_HORIZON)
EPOCHS_PER_CLIP = 5
WINDOWS_PER_CLIP = 2
# Evaluations of pretraining on validation play: the first after so many seconds, and the next ones
# so rarely that they take this share of the time. Full frames cost far more than small ones.
LOOK_AFTER, LOOKS_SHARE = 60.0, 0.05


class Watch:
    """Measures roll-outs on validation play and logs them.

    Args:
        directory: of the stage.
        settings: how the run trains.
        windows: validation play, as `utils.watching.evaluation.evaluate` takes it.
        palette: of the windows' palette indices; None where they are RGB.
        roll_out: of the predictor that is measured.
        copied: whether that is a copy of the one that is trained.
    """

    def __init__(
        self,
        directory: Path,
        settings: CheckpointConfig,
        windows: dict,
        palette: np.ndarray | None,
        roll_out: RollOut,
        copied: bool,
    ):
        self._directory, self._settings = directory, settings
        self._windows, self._palette = windows, palette
        self._roll_out, self._copied = roll_out, copied
        self._pretraining_roll_out = None
        self._next_look = time.monotonic() + LOOK_AFTER
        self._logs = Logs(directory / "logs")
        training = dataclasses.asdict(settings.training)
        self._logs.hyper_parameters({**training, "variant": settings.variant})

    def pretraining(self, done: int, loss: float, model: Pretraining) -> None:
        """Logs an epoch of pretraining.

        Args:
            done: steps that are done.
            loss: the epoch's mean.
            model: what is trained.
        """
        self._logs.scalars(done, {"pretraining_loss": loss})
        # The stage's first epoch, which soon follows the last step, has a look of its own.
        goes_on = done < self._settings.training.pretraining_steps
        began = time.monotonic()
        if goes_on and began >= self._next_look:
            roll_out = self._roll_out_of(model)
            results, _, imagined = self._evaluate(roll_out)
            self._logs.scalars(done, _scalars(results, "pretraining/"))
            self._logs.video(done, "pretraining/roll_out", self._clip(imagined))
            ended = time.monotonic()
            self._next_look = ended + max(LOOK_AFTER, (ended - began) / LOOKS_SHARE)
        self._logs.flush()

    def _roll_out_of(self, model):
        """The roll-out of what is trained, or of a copy with its weights."""
        if self._pretraining_roll_out is None:
            predictor = self._roll_out.predictor
            measured = type(model)(predictor.network) if self._copied else model
            self._pretraining_roll_out = PretrainingRollOut(predictor, measured)
        measured = self._pretraining_roll_out.pretraining
        if measured is not model:
            measured.set_weights(model.get_weights())
        return self._pretraining_roll_out

    def epoch(self, state: RunState, losses: dict[str, float], last: bool) -> None:
        """Logs an epoch and adds its row to the state's history.

        Args:
            state: after the epoch.
            losses: all that is plotted of it, by name.
            last: whether the run ends with it.
        """
        results, rewards, imagined = self._evaluate(self._roll_out)
        row = {"epoch": state.epoch, "step": state.step, **losses}
        for horizon, errors in results["horizons"].items():
            row[f"mse_{horizon}"] = errors["mse"]
        state.history.append(row)
        self._logs.scalars(state.step, losses | _scalars(results))
        if self._settings.predicts_rewards:
            earned = self._windows["rewards"][:, self._settings.warmup - 1 :]
            for sign, column in (("positive", 2), ("negative", 0)):
                happened = earned > 0 if sign == "positive" else earned < 0
                self._logs.precision_recall(
                    state.step, f"reward/{sign}", happened, rewards[..., column]
                )
        if state.epoch % EPOCHS_PER_CLIP == 1 or last:
            self._logs.video(state.step, "roll_out", self._clip(imagined))
        self._logs.flush()
        self._write_history(state.history)

    def close(self) -> None:
        """Ends the logs."""
        self._logs.close()

    def _evaluate(self, roll_out):
        """Errors, probabilities of rewards, and the imagined frames of the first windows."""
        windows, warmup = self._windows, self._settings.warmup
        rolled = evaluation.Rolled(roll_out, windows["actions"], warmup, HORIZONS, WINDOWS_PER_CLIP)
        measured = evaluation.evaluate(rolled, windows, warmup, HORIZONS, self._palette)
        return *measured, rolled.kept

    def _clip(self, imagined):
        """Truth, prediction and difference of the first windows, one above the other."""
        real = self._windows["frames"][:WINDOWS_PER_CLIP, self._settings.warmup :]
        truth = evaluation.pixels(real, self._palette)
        clips = []
        for seen, predicted in zip(truth, imagined, strict=True):
            panels = video.compare(seen, predicted)
            captions = [f"step {t + 1}" for t in range(len(seen))]
            scale = 2 if seen.shape[1] < 100 else 1
            clips.append(np.stack(list(video.side_by_side(panels, captions, scale))))
        return np.concatenate(clips, axis=1)

    def _write_history(self, history):
        table = io.StringIO()
        writer = csv.DictWriter(table, history[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)
        write_whole(
            self._directory / "history.csv", lambda partial: partial.write_text(table.getvalue())
        )


def _scalars(results, prefix=""):
    """The errors by horizon, by their tags in TensorBoard."""
    return {
        f"{prefix}error_at_step_{horizon}/{key}": value
        for horizon, errors in results["horizons"].items()
        for key, value in errors.items()
        if value is not None
    }
