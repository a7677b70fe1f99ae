"""Renders checkpoints' roll-outs as a video: what `generate_video.py` does.

Keras is imported after the inputs are checked, because that takes seconds.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
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
from utils.watching.futures import RecordedMoment, actions_of

HORIZON = 100  # predicted frames, unless the user says how many
REPLAY, RANDOM = "replay", "random"  # actions that need no list
_STACK_GAP = 2  # rows between truth and prediction where one stands above the other


@dataclass(frozen=True)
class Future:
    """What is played from the start, and what came of it. Truth and rewards may be unknown."""

    actions: np.ndarray  # int32 (steps,)
    truth: np.ndarray | None  # uint8 RGB (steps, height, width, 3)
    rewards: np.ndarray | None  # float32 (steps,)


def render(
    directories: Sequence[Path],
    outputs: Sequence[str | Path],
    *,
    horizon: int | None = None,
    actions: Sequence[str] = (REPLAY,),
    labels: Sequence[str] = (),
    seed: int = 0,
    dataset: Path | None = None,
    fps: int = 10,
) -> None:
    """Rolls checkpoints out from one start and writes the video.

    Args:
        directories: of the stages.
        outputs: names of the same video, ending in .mp4 or .gif.
        horizon: predicted frames; None: as many as a list of actions has, or `HORIZON`.
        actions: each is "replay", "random" or a list, see `actions_of`. Several stand side by side.
        labels: names of the predictions' columns, one for each; none: they are named here.
        seed: chooses the start, and random actions.
        dataset: directory of the real frames; None: the first checkpoint's test set.
        fps: frames shown a second.

    Raises:
        InputError: what was given cannot be used.
    """
    outputs = [video.check_output(output) for output in outputs]
    checkpoints = [Checkpoint(directory) for directory in directories]
    check_alike(checkpoints)
    config = checkpoints[0].config
    titles = _titles([checkpoint.config for checkpoint in checkpoints], actions, labels)
    named = {text: actions_of(text, config.action_meanings) for text in _lists(actions)}
    steps = _steps(named, horizon)
    real = checkpoints[0].test_data(dataset)
    frames, before, futures = _futures(real, config, actions, named, steps, seed)
    predictions = [_predict(one, frames, before, futures) for one in checkpoints]
    panels, scale = _panels(titles, futures, [frames for frames, _ in predictions])
    captions = _captions(config.action_meanings, futures, [rewards for _, rewards in predictions])
    for output in outputs:
        video.write_video(output, video.side_by_side(panels, captions, scale), fps)
        say(f"{output}: {len(captions)} frames, {config.game}, {config.stage}")


def _lists(actions):
    """Those that are lists of names."""
    return [text for text in actions if text not in (REPLAY, RANDOM)]


def _titles(configs, actions, labels):
    """The titles of the predictions' columns: of the checkpoints, or of several actions."""
    if len(configs) > 1 and len(actions) > 1:
        raise InputError(
            "expected several --checkpoint or several --actions, received both. Render one video "
            "of each checkpoint."
        )
    count = max(len(configs), len(actions))
    if labels and len(labels) != count:
        raise InputError(
            f"expected a --label for each of {count} columns, received {len(labels)}: "
            f"{', '.join(labels)}"
        )
    for label in labels:
        if not label.isascii() or not label.isprintable():
            raise InputError(f"expected a --label of ASCII characters, received {label!r}")
    titles = list(labels) or (list(actions) if len(actions) > 1 else _names(configs))
    taken = [*titles, "truth", "difference"] if len(actions) == 1 else titles
    if len(set(taken)) < len(taken):
        what = "--label" if labels else "--actions"
        raise InputError(f"expected columns of different names, received {what} {titles}")
    return titles


def _names(configs):
    """A single checkpoint's is "prediction"; several have their variant, or stage, or a number."""
    if len(configs) == 1:
        return ["prediction"]
    names = []
    for config in configs:
        choices = [config.variant, config.stage]
        choices += [f"{config.stage} {i}" for i in range(2, len(names) + 2)]
        names.append(next(name for name in choices if name not in names))
    return names


def _steps(named, horizon):
    """How many steps are predicted."""
    lengths = {text: len(actions) for text, actions in named.items()}
    if lengths and horizon is not None:
        raise InputError(
            f"expected no --horizon beside --actions that say how many steps there are, received "
            f"--horizon={horizon}"
        )
    if len(set(lengths.values())) > 1:
        steps = ", ".join(f"{count} in {text}" for text, count in lengths.items())
        raise InputError(f"expected as many steps in all --actions, received {steps}")
    return next(iter(lengths.values()), horizon or HORIZON)


def _futures(
    dataset: Dataset, config, actions, named, steps, seed
) -> tuple[np.ndarray, np.ndarray, list[Future]]:
    """The start's frames, uint8, the actions between them, int, and what may follow."""
    shape, warmup = PRESETS[config.model].frame_shape, config.warmup
    # Without a replay there is one frame after the warm-up: no step begins in an episode's last.
    spec = WindowSpec(warmup, steps if REPLAY in actions else 1)
    longest = int(dataset.lengths.max()) + 1
    if spec.length > longest:
        raise InputError(
            f"expected --horizon of at most {longest - warmup}, the frames after the warm-up in "
            f"the longest episode of {dataset.directory}. Received {steps}."
        )
    windows = sample(dataset, shape, spec, 1, seed)
    (number,) = windows.numbers(0)
    window = {key: values[0] for key, values in windows.read([number]).items()}
    first, rng = warmup - 1, generator("video", seed)
    game = None
    if set(actions) != {REPLAY}:
        episode, frame = windows.position(number)
        try:
            game = RecordedMoment(dataset, episode, frame + first, shape)
        except InputError as error:
            print(f"note: no truth beside these actions: {error}", file=sys.stderr)
    futures = []
    for text in actions:
        if text == REPLAY:
            truth = evaluation.pixels(window["frames"][None, warmup:], dataset.palette())[0]
            truth = video.to_uint8_rgb(truth)
            futures.append(Future(window["actions"][first:], truth, window["rewards"][first:]))
            continue
        taken = named.get(text)
        if taken is None:
            taken = rng.integers(len(config.action_meanings), size=steps, dtype=np.int32)
        truth, rewards = game.play(taken) if game else (None, None)
        futures.append(Future(taken, None if game is None else video.to_uint8_rgb(truth), rewards))
    return window["frames"][:warmup], window["actions"][:first], _cut(futures)


def _cut(futures):
    """All futures as long as the shortest truth."""
    steps = len(futures[0].actions)
    played = min([len(future.truth) for future in futures if future.truth is not None] or [steps])
    if played < steps:
        print(f"note: the real game ends after {played} steps, and the video", file=sys.stderr)

    def part(values):
        return None if values is None else values[:played]

    return [Future(*map(part, (one.actions, one.truth, one.rewards))) for one in futures]


def _predict(checkpoint, frames, before, futures):
    """Predicted frames, uint8 RGB (futures, steps, height, width, 3), and expected rewards.

    The rewards are float (futures, steps); None if they are not learned.
    """
    import_keras()
    from model.predictor import REWARD_CLASSES, RollOut

    frames = np.repeat(frames[None], len(futures), axis=0)
    actions = np.stack([np.concatenate([before, future.actions]) for future in futures])
    length = evaluation.piece_length(len(futures[0].actions))
    predicted, rewards = [], []
    for piece in RollOut(checkpoint.predictor()).in_pieces(frames, actions, length):
        predicted.append(video.to_uint8_rgb(piece["frames"]))
        rewards.append(piece["reward"] @ np.array(REWARD_CLASSES, np.float32))
    rewards = np.concatenate(rewards, axis=1) if checkpoint.predicts_rewards else None
    return np.concatenate(predicted, axis=1), rewards


def _panels(titles, futures, predicted):
    """The panels of `video.side_by_side`, and how much they are enlarged."""
    scale = video.enlargement(predicted[0].shape[2])
    if len(futures) > 1:
        pairs = zip(futures, predicted[0], strict=True)
        columns = [_stacked(future.truth, prediction) for future, prediction in pairs]
        return dict(zip(titles, columns, strict=True)), scale
    truth = futures[0].truth
    panels = {} if truth is None else {"truth": truth}
    panels |= {title: frames[0] for title, frames in zip(titles, predicted, strict=True)}
    if truth is not None and len(predicted) == 1:
        panels["difference"] = video.difference(truth, predicted[0][0])
    return panels, scale


def _stacked(truth, prediction):
    """Truth above prediction; black where it is not known."""
    truth = np.zeros_like(prediction) if truth is None else truth
    gap = np.zeros((*truth.shape[:1], _STACK_GAP, *truth.shape[2:]), np.uint8)
    return np.concatenate([truth, gap, prediction], axis=1)


def _captions(meanings, futures, predicted):
    """The caption of each frame.

    Args:
        meanings: the name of each action.
        futures: what was played.
        predicted: of each checkpoint, float (futures, steps), or None.
    """
    above = ", truth above prediction" if len(futures) > 1 else ""
    captions = []
    for t in range(len(futures[0].actions)):
        names = " | ".join(meanings[future.actions[t]] for future in futures)
        rewards = []
        for i, future in enumerate(futures):
            # Its sign, which is what is predicted.
            earned = "" if future.rewards is None else f"{np.sign(future.rewards[t]):+.0f}, "
            expected = ("-" if row is None else f"{row[i, t]:+.2f}" for row in predicted)
            rewards.append(f"{earned}predicted {', '.join(expected)}")
        captions.append(f"step {t + 1}{above}  {names}\nreward {' | '.join(rewards)}")
    return captions
