"""Renders a checkpoint's roll-out as a video: what `generate_video.py` does.

Keras is imported after the inputs are checked, because that takes seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from model.presets import PRESETS
from systems.dataset import Dataset
from systems.errors import InputError, say
from systems.seeds import generator
from systems.windows import WindowSpec, sample
from utils.checkpoint import Checkpoint, check_alike
from utils.start import import_keras
from utils.watching import evaluation, video


def render(
    directories: Sequence[Path],
    output: str | Path,
    *,
    horizon: int = 100,
    replay: bool = True,
    seed: int = 0,
    dataset: Path | None = None,
    fps: int = 10,
) -> None:
    """Rolls checkpoints out from one start and writes the video.

    Args:
        directories: of the stages.
        output: the video's name, ending in .mp4 or .gif.
        horizon: predicted frames.
        replay: whether the recorded actions are taken; if not, they are drawn at random.
        seed: chooses the start, and random actions.
        dataset: directory of the real frames; None: the first checkpoint's test set.
        fps: frames shown a second.

    Raises:
        InputError: what was given cannot be used.
    """
    output = video.check_output(output)
    checkpoints = [Checkpoint(directory) for directory in directories]
    check_alike(checkpoints)
    config = checkpoints[0].config
    real = checkpoints[0].test_data(dataset)
    window = _window(real, checkpoints[0], horizon, replay, seed)
    actions = window["actions"]
    if not replay:
        actions = _random_actions(actions, config, horizon, seed)
    predictions = [_predict(checkpoint, window["frames"], actions) for checkpoint in checkpoints]
    panels = {}
    if replay:
        truth = evaluation.pixels(window["frames"][:, config.warmup :], real.palette())
        panels["truth"] = video.to_uint8_rgb(truth[0])
    for checkpoint, (frames, _) in zip(checkpoints, predictions, strict=True):
        panels[_title(checkpoint.config, panels, len(checkpoints))] = frames
    if replay and len(checkpoints) == 1:
        panels["difference"] = video.difference(panels["truth"], panels["prediction"])
    captions = _captions(
        [config.action_meanings[action] for action in actions[0, config.warmup - 1 :]],
        window["rewards"][0, config.warmup - 1 :] if replay else None,
        [rewards for _, rewards in predictions],
    )
    video.write_video(output, video.side_by_side(panels, captions), fps)
    say(f"{output}: {horizon} frames, {config.game}, {config.stage}")


def _window(dataset: Dataset, checkpoint, horizon, replay, seed):
    """The window that all checkpoints start from, as a batch of one."""
    warmup = checkpoint.config.warmup
    # If nothing is replayed, one frame after the warm-up: no step begins in an episode's last one.
    spec = WindowSpec(warmup, horizon if replay else 1)
    longest = int(dataset.lengths.max()) + 1
    if spec.length > longest:
        raise InputError(
            f"expected --horizon of at most {longest - warmup}, the frames after the warm-up in "
            f"the longest episode of {dataset.directory}. Received {horizon}."
        )
    shape = PRESETS[checkpoint.config.model].frame_shape
    return sample(dataset, shape, spec, 1, seed).batch(0)


def _random_actions(actions, config, horizon, seed):
    """The warm-up's own actions, then as many at random as frames are predicted."""
    size = 1, horizon
    drawn = generator("video", seed).integers(
        len(config.action_meanings), size=size, dtype=actions.dtype
    )
    return np.concatenate([actions[:, : config.warmup - 1], drawn], axis=1)


def _predict(checkpoint, frames, actions):
    """Predicted frames, uint8 RGB, and expected rewards (time,), None if they are not learned."""
    import_keras()
    from model.predictor import REWARD_CLASSES, RollOut

    roll_out = RollOut(checkpoint.predictor())
    predictions = roll_out.predict_on_batch(
        {"frames": frames[:, : checkpoint.config.warmup], "actions": actions}
    )
    rewards = predictions["reward"][0] @ np.array(REWARD_CLASSES, np.float32)
    frames = video.to_uint8_rgb(predictions["frames"][0])
    return frames, rewards if checkpoint.predicts_rewards else None


def _title(config, panels, num_checkpoints):
    """A title that no other panel has: a single checkpoint's is "prediction".

    Several have their variant, or their stage, or that with a number.
    """
    if num_checkpoints == 1:
        return "prediction"
    names = [config.variant, config.stage]
    names += [f"{config.stage} {i}" for i in range(2, len(panels) + 2)]
    return next(name for name in names if name not in panels)


def _captions(actions, rewards, predicted):
    """The caption of each frame.

    Args:
        actions: the name of each step's action.
        rewards: those earned, float (time,); None if nothing was replayed.
        predicted: of each checkpoint, float (time,), or None.
    """
    captions = []
    for t, action in enumerate(actions):
        earned = "" if rewards is None else f" {rewards[t]:+.0f},"
        expected = ", ".join("-" if row is None else f"{row[t]:+.2f}" for row in predicted)
        captions.append(f"step {t + 1}  {action}\nreward{earned} predicted {expected}")
    return captions
