"""Plays the episodes of a recording in worker processes and yields them in order.

Episode i depends on the game, the policy, the seed and i alone. The number of workers changes how
long a recording takes, but not what is recorded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import wait

import numpy as np
from zlib_ng import zlib_ng

from systems.atari import AtariGame
from systems.gymnasium_game import GymnasiumGame
from systems.palette import Colour, Palette
from systems.policies import KnownActions, Policy, make_policy
from systems.real_game import RealGame
from systems.seeds import episode_seed, generator
from systems.workers import Worker, parent

# Measured on Freeway, Ms. Pac-Man, Space Invaders and Pong, where a step takes 400 to 700 us:
#     level 2    14 to 43 us     220 to 1,793 bytes a frame
#     level 6    25 to 120 us    169 to 711 bytes a frame
# At level 6 recording runs at 0.72 of the speed of the emulator alone, below the wanted 0.8.
ZLIB_LEVEL = 2

# Steps that a worker sends at once: few enough for a progress bar, enough to cost no time.
_STEPS_PER_PART = 64


@dataclass
class Episode:
    """The first T steps of an episode, or a later part of it with T steps.

    Attributes:
        frames: T + 1 screens, or T in a later part. Each is a zlib stream of uint8: [H, W] palette
            indices or [H, W, C].
        actions: T indices of actions.
        rewards: T rewards.
        colours: those that the worker had not met before.
        terminated: whether the game was over after the last step.
        ended: whether no further step follows.
        seed: that the game was reset with.
        no_ops: emulated frames of nothing before the first frame; None: it is no Atari game.
    """

    frames: list[bytes] = field(default_factory=list)
    actions: list[int] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    colours: list[Colour] = field(default_factory=list)
    terminated: bool = False
    ended: bool = False
    seed: int | None = None
    no_ops: int | None = None

    def __len__(self) -> int:
        return len(self.actions)

    def append(self, part: Episode) -> None:
        """Adds the next steps."""
        if not self.frames:
            self.seed, self.no_ops = part.seed, part.no_ops
        self.frames += part.frames
        self.actions += part.actions
        self.rewards += part.rewards
        self.colours += part.colours
        self.terminated, self.ended = part.terminated, part.ended

    def cut(self, num_steps: int) -> None:
        """Removes what came after the first `num_steps` steps."""
        if num_steps < len(self):
            del self.frames[num_steps + 1 :], self.actions[num_steps:], self.rewards[num_steps:]
            self.colours = [colour for colour in self.colours if colour.frame <= num_steps]
            self.terminated = False


def play_episodes(
    game: RealGame,
    policy: str,
    seed: int,
    num_steps: int,
    num_workers: int,
    on_progress: Callable[[int], None],
    known: Sequence[Sequence[int]] = (),
    known_alone: bool = False,
) -> Iterator[Episode]:
    """Plays episodes 0, 1, ... until they have `num_steps` steps in all. The last one is cut.

    Args:
        game: which is played.
        policy: a name that `policy_name` returned.
        seed: of all random choices.
        num_steps: the total number of steps.
        num_workers: how many processes play.
        on_progress: called with the number of steps played so far.
        known: the actions that the policy takes in the first episodes, where they are known.
        known_alone: whether an episode ends where they end. They have to be enough then.

    Raises:
        InputError: a worker cannot play the game.
        RuntimeError: a worker process ended before its work did.
    """
    workers: list[EpisodeWorker] = []
    try:
        for _ in range(num_workers):
            workers.append(EpisodeWorker(game, policy, seed))
        under_way: deque[Episode] = deque()
        num_begun = steps_played = 0
        steps_missing = num_steps
        while steps_missing:
            for worker in workers:
                # No episode begins once those before it have enough steps.
                more = steps_played < num_steps and not (known_alone and num_begun == len(known))
                if worker.episode is None and more:
                    missing = num_steps - steps_played
                    actions = known[num_begun] if num_begun < len(known) else ()
                    missing = min(missing, len(actions)) if known_alone else missing
                    under_way.append(worker.begin(num_begun, missing, actions))
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


class EpisodeWorker(Worker):
    """A worker process that plays episodes.

    Attributes:
        episode: the one it is playing, or None.
    """

    def __init__(self, game: RealGame, policy: str, seed: int) -> None:
        super().__init__("systems.episodes", "serve_episodes", policy, str(seed))
        self.send(game)
        self.episode: Episode | None = None

    def begin(self, index: int, max_steps: int, known: Sequence[int] = ()) -> Episode:
        """Starts an episode. The one that is returned grows with every `proceed`."""
        self.episode = Episode()
        self.send((index, max_steps, known))
        return self.episode

    def proceed(self) -> int:
        """Adds to the episode what the worker has played, and returns the number of steps."""
        part: Episode = self.receive()
        self.episode.append(part)
        if part.ended:
            self.episode = None
        return len(part)


def serve_episodes() -> None:
    """Runs in a worker process: plays the episodes that the parent asks for."""
    with parent() as (connection, (policy_name, seed)):
        game = connection.recv().begin()
        met = bytearray()
        while True:
            index, max_steps, known = connection.recv()
            policy = make_policy(policy_name, game, generator("recording", int(seed), index))
            if len(known):
                policy = KnownActions(policy, known)
            start = episode_seed("recording", int(seed), index)
            for part in play_episode(game, policy, max_steps, met, start):
                connection.send(part)


def play_episode(
    game: AtariGame | GymnasiumGame,
    policy: Policy,
    max_steps: int,
    met: bytearray,
    seed: int,
) -> Iterator[Episode]:
    """Plays one episode and yields it in parts.

    Args:
        game: what to play.
        policy: who plays.
        max_steps: steps after which the episode is stopped.
        met: the palette indices, a byte each, that this worker has met. New ones are added.
        seed: of the emulator's no-ops or the environment's random numbers.
    """
    first_frame = game.reset(seed)
    policy.reset()
    part = Episode(
        [zlib_ng.compress(first_frame, ZLIB_LEVEL)],
        colours=_unmet(game.palette, met, first_frame, 0),
        seed=seed,
        no_ops=getattr(game, "no_ops", None),
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


def _unmet(palette: Palette | None, met: bytearray, screen: np.ndarray, frame: int) -> list[Colour]:
    if palette is None:
        return []
    # The palette cannot tell, because it also knows colours that a step's brighter frame hides.
    # Freeway begins with a hundred that no screen shows.
    indices = sorted(set(screen.tobytes().translate(None, met)))
    met += bytes(indices)
    return [Colour(frame, i, tuple(palette.rgb[i].tolist()), int(palette.grey[i])) for i in indices]
