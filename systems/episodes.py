"""Plays episodes in worker processes and hands them over in order.

Episode i depends on the game, the policy, the seed and i alone, so the number of workers changes
how long a recording takes and not what is recorded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from typing import NamedTuple

import numpy as np
from zlib_ng import zlib_ng

from systems.atari import AtariGame, Palette
from systems.policies import Policy, make_policy
from systems.workers import Worker, parent

# Measured on Freeway, Ms. Pac-Man, Space Invaders and Pong: level 2 of zlib-ng takes 14 to 43 us
# and 220 to 1,793 bytes a frame, level 6 25 to 120 us and 169 to 711 bytes, of the 400 to 700 us
# of a step. At level 6 recording falls below 0.8 of what the emulator alone does (to 0.72).
ZLIB_LEVEL = 2

# Steps that a worker sends at a time: often enough for a progress bar, rarely enough to cost
# nothing.
_STEPS_PER_PART = 64


class Colour(NamedTuple):
    """What a palette index looks like: `rgb` and `grey` in 0..255; first met in frame `frame`."""

    frame: int
    index: int
    rgb: tuple[int, int, int]
    grey: int


@dataclass
class Episode:
    """The first T steps of an episode, or a part of it on the way from a worker.

    Attributes:
        frames: T + 1 screens (T in a part that is not the first), each a zlib stream of [H, W]
            uint8 palette indices.
        actions: T indices of actions.
        rewards: T rewards.
        colours: the colours that the worker had not met before.
        terminated: whether the game was over after the last step.
        ended: whether no further step follows.
    """

    frames: list[bytes] = field(default_factory=list)
    actions: list[int] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    colours: list[Colour] = field(default_factory=list)
    terminated: bool = False
    ended: bool = False

    def __len__(self) -> int:
        return len(self.actions)

    def append(self, part: Episode) -> None:
        """Adds the next steps."""
        self.frames += part.frames
        self.actions += part.actions
        self.rewards += part.rewards
        self.colours += part.colours
        self.terminated, self.ended = part.terminated, part.ended

    def cut(self, num_steps: int) -> None:
        """Forgets all that came after the first `num_steps` steps."""
        if num_steps < len(self):
            del self.frames[num_steps + 1 :], self.actions[num_steps:], self.rewards[num_steps:]
            self.colours = [colour for colour in self.colours if colour.frame <= num_steps]
            self.terminated = False


def play_episodes(
    game: str,
    policy: str,
    seed: int,
    num_steps: int,
    num_workers: int,
    on_progress: Callable[[int], None],
) -> Iterator[Episode]:
    """Plays episodes 0, 1, ... until they have `num_steps` steps in all; the last one is cut.

    Args:
        game: the canonical name of the game.
        policy: what `policy_name` called it.
        seed: what all random choices depend on.
        num_steps: the total number of steps.
        num_workers: how many processes play.
        on_progress: called with the number of steps played so far.

    Raises:
        RuntimeError: if a worker process ends before its work does.
    """
    workers: list[_Worker] = []
    try:
        for _ in range(num_workers):
            workers.append(_Worker(game, policy, seed))
        under_way: deque[Episode] = deque()
        num_begun = steps_played = 0
        steps_missing = num_steps
        while steps_missing:
            for worker in workers:
                # Once all episodes together have enough steps, another one would come too late.
                if worker.episode is None and steps_played < num_steps:
                    under_way.append(worker.begin(num_begun, num_steps - steps_played))
                    num_begun += 1
            busy = {worker.connection: worker for worker in workers if worker.episode is not None}
            for connection in wait(busy):
                steps_played += busy[connection].proceed()
            on_progress(min(steps_played, num_steps))
            while steps_missing and under_way:
                if not under_way[0].ended and len(under_way[0]) < steps_missing:
                    break
                episode = under_way.popleft()
                episode.cut(steps_missing)
                steps_missing -= len(episode)
                yield episode
    finally:
        for worker in workers:
            worker.stop()


class _Worker(Worker):
    """A worker process that plays episodes.

    Attributes:
        episode: what it is playing, or None.
    """

    def __init__(self, game: str, policy: str, seed: int) -> None:
        super().__init__("systems.episodes", game, policy, str(seed))
        self.episode: Episode | None = None

    def begin(self, index: int, max_steps: int) -> Episode:
        """Lets the worker play; the episode that is returned grows with every `proceed`."""
        self.episode = Episode()
        self.send((index, max_steps))
        return self.episode

    def proceed(self) -> int:
        """Adds what the worker has played to the episode and returns the number of steps."""
        part: Episode = self.receive()
        self.episode.append(part)
        if part.ended:
            self.episode = None
        return len(part)


def work() -> None:
    """Is a worker process: plays the episodes it is asked for until the parent goes away."""
    with parent() as (connection, (game_name, policy_name, seed)):
        # The emulator itself draws nothing at random, so the seed is only for the policy.
        game = AtariGame(game_name)
        met = bytearray()
        while True:
            index, max_steps = connection.recv()
            policy = make_policy(policy_name, game, np.random.default_rng((int(seed), index)))
            for part in play_episode(game, policy, max_steps, met):
                connection.send(part)


def play_episode(
    game: AtariGame, policy: Policy, max_steps: int, met: bytearray
) -> Iterator[Episode]:
    """Plays one episode and yields it in parts.

    Args:
        game: what to play.
        policy: who plays.
        max_steps: steps after which to stop although the game is not over.
        met: the palette indices, a byte each, that this worker has met before; brought up to date.
    """
    first_frame = game.reset()
    policy.reset()
    part = Episode(
        [zlib_ng.compress(first_frame, ZLIB_LEVEL)],
        colours=_unmet(game.palette, met, first_frame, 0),
    )
    for step in range(1, max_steps + 1):
        action = policy.action()
        frame, reward, part.terminated = game.step(action)
        part.frames.append(zlib_ng.compress(frame, ZLIB_LEVEL))
        part.actions.append(action)
        part.rewards.append(reward)
        part.colours += _unmet(game.palette, met, frame, step)
        part.ended = part.terminated or game.truncated or step == max_steps
        if part.ended or len(part) == _STEPS_PER_PART:
            yield part
            if part.ended:
                return
            part = Episode()


def _unmet(palette: Palette, met: bytearray, screen: np.ndarray, frame: int) -> list[Colour]:
    # Every screen is looked at, as the emulator may have drawn more colours than the brighter of
    # two frames shows: Freeway begins with a hundred that are never seen again.
    indices = sorted(set(screen.tobytes().translate(None, met)))
    met += bytes(indices)
    return [Colour(frame, i, tuple(palette.rgb[i].tolist()), int(palette.grey[i])) for i in indices]
