"""Plays a recorded data set again, because the emulator draws nothing at random.

The recorded actions lead from an episode's start to the recorded frames. At any moment of it the
game can then go on in another way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from systems.atari import MAX_POOLED_FRAMES, AtariGame
from systems.dataset import Dataset
from systems.errors import InputError


class NotReplayed(InputError):
    """The emulator cannot play a data set again."""

    def __init__(self, dataset: Dataset, reason: str):
        super().__init__(
            f"expected a data set that the emulator can play again, as systems.record makes them, "
            f"received {dataset.directory}: {reason}"
        )


def why_not_replayable(metadata: dict, frame_shape: tuple[int, ...]) -> str | None:
    """Returns why a data set's actions do not lead to its frames again; None if they do.

    Args:
        metadata: `Dataset.metadata`.
        frame_shape: `Dataset.frame_shape`.
    """
    needed = ("game", "frame_skip", "max_episode_frames", "action_meanings")
    needed += ("pooled_frames", "repeat_action_probability")
    if environment := metadata.get("environment"):
        return f"{environment['id']} cannot be set back to a moment as the Atari emulator can"
    missing = [key for key in needed if key not in metadata]
    if missing:
        return f"metadata.json has no {', '.join(missing)}"
    if metadata["repeat_action_probability"]:
        return f"repeat_action_probability is {metadata['repeat_action_probability']}"
    if metadata["pooled_frames"] > MAX_POOLED_FRAMES:
        return f"pooled_frames is {metadata['pooled_frames']}"
    if len(frame_shape) != 2:
        return "its frames are not palette indices"
    if tuple(metadata["action_meanings"]) != replaying_game(metadata).action_meanings:
        return "its actions are not those of the game"
    return None


def replaying_game(metadata: dict) -> AtariGame:
    """Returns the game as it was set when the data set was recorded, at an episode's start."""
    return AtariGame(
        metadata["game"],
        frame_skip=metadata["frame_skip"],
        max_episode_frames=metadata["max_episode_frames"],
        pooled_frames=metadata["pooled_frames"],
        mode=metadata.get("mode", 0),
        difficulty=metadata.get("difficulty", 0),
    )


def recorded_screen(dataset: Dataset, episode: int, frame: int) -> np.ndarray:
    """Returns a recorded screen, [H, W] uint8 palette indices."""
    # Palette indices of the size that is asked for are returned as they are stored.
    as_stored = (*dataset.frame_shape, 3)
    return dataset.read(episode, frame, 1, as_stored)["frames"][0]


def replayed(
    dataset: Dataset, moments: Sequence[tuple[int, int]]
) -> Iterator[tuple[int, AtariGame]]:
    """Plays to moments of a data set, in the order in which they were recorded.

    Args:
        dataset: with the moments.
        moments: episode and frame of each.

    Yields:
        The number of a moment, and the game there. Whoever plays on restores the state afterwards.

    Raises:
        NotReplayed: it cannot be played again, or shows something else than was recorded.
    """
    reason = why_not_replayable(dataset.metadata, dataset.frame_shape)
    if reason:
        raise NotReplayed(dataset, reason)
    elsewhere = NotReplayed(dataset, "its actions lead elsewhere in this emulator")
    game, position = replaying_game(dataset.metadata), None
    for number in sorted(range(len(moments)), key=moments.__getitem__):
        episode, frame = moments[number]
        if position is None or position[0] != episode:
            game.start(dataset.no_ops[episode])
            position = episode, 0
        for action in dataset.actions[episode][position[1] : frame]:
            if game.terminated or game.truncated:
                raise elsewhere
            game.step(int(action))
        position = episode, frame
        if not np.array_equal(game.screen(), recorded_screen(dataset, episode, frame)):
            raise elsewhere
        yield number, game
