"""Planning by looking ahead: action sequences are tried in a simulator, the best is begun.

A simulator says what sequences of actions would earn from the present moment of a real game: the
emulator itself, cloned, or a trained model that is kept in step with the game
(`systems.compressed_simulator`). Nothing here needs Keras, which would take a worker process longer
to start than to play many a decision.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import NamedTuple, Protocol

import numpy as np
from tqdm import tqdm

from systems.atari import AtariGame
from systems.policies import PersistentPolicy, hold
from systems.workers import answers, parent, require_parent

METHODS = ("shooting", "cem")


class Simulator(Protocol):
    """Looks ahead from the present moment of real games, of all of them at once."""

    def begin(self, frames: np.ndarray, actions: np.ndarray) -> None:
        """Takes in the first frames of each game.

        Args:
            frames: uint8 (games, time, height, width, channels).
            actions: int (games, time - 1), between the frames.
        """

    def observe(self, frames: np.ndarray, actions: np.ndarray) -> None:
        """Takes in each game's next frame, uint8 (games, ...), and the action that led to it."""

    def values(self, actions: np.ndarray, discount: float) -> np.ndarray:
        """What sequences of actions would earn from here, discounted.

        Rewards count by their sign, as the model predicts them.

        Args:
            actions: int (games, sequences, steps).
            discount: of each step.

        Returns:
            float (games, sequences).
        """


class EmulatorSimulator:
    """The game's own emulator, cloned: a perfect model."""

    def __init__(self, game: AtariGame):
        self._game = game

    def begin(self, frames: np.ndarray, actions: np.ndarray) -> None:
        """Does nothing: the emulator is where it is."""

    def observe(self, frames: np.ndarray, actions: np.ndarray) -> None:
        """Does nothing: the emulator is where it is."""

    def values(self, actions: np.ndarray, discount: float) -> np.ndarray:
        """See `Simulator`; of one game."""
        rewards = np.sign(self._game.rewards_ahead(actions[0]))
        return (rewards @ discount ** np.arange(actions.shape[2]))[None]


class Planner:
    """Model-predictive control: chooses sequences of actions at every step, to begin with.

    "shooting" (random shooting) draws sequences of held actions and takes the one that earns most.
    "cem" (the cross-entropy method) draws them in rounds: from the second on, each step's action is
    drawn as often as the best of the round before took it there. Either way the rest of the plan
    before is among them, and is gone on with where nothing earns more.

    Args:
        num_actions: of the game.
        horizon: steps looked ahead.
        num_rollouts: sequences tried for a game in each decision, of all rounds together; 2 at
            least.
        method: one of `METHODS`.
        rngs: where the sequences of each game are drawn from.
    """

    DISCOUNT = 0.97
    HOLD_STEPS = (32, 16, 8, 4, 2)  # mean times that actions are held, as many sequences with each
    ROUNDS = 3  # of the cross-entropy method
    ELITE = 0.15  # of a round's sequences
    SMOOTHING = 0.1  # of each step's action drawn uniformly all the same

    def __init__(
        self,
        num_actions: int,
        horizon: int,
        num_rollouts: int,
        method: str,
        rngs: list[np.random.Generator],
    ):
        self._num_actions, self._rngs = num_actions, rngs
        # Rounds of one size, which compile once; what a division leaves over is not tried.
        # The plan before is one of a round's: at least one beside it is new.
        self._rounds = max(1, min(self.ROUNDS, num_rollouts // 2)) if method == "cem" else 1
        self._size = num_rollouts // self._rounds
        self._uniform = np.full((len(rngs), horizon, num_actions), 1 / num_actions)
        self._plans = self._draw(self._uniform, 1)[:, 0]

    def plan(self, simulator: Simulator) -> np.ndarray:
        """Each game's sequence of actions that earns most from here, int (games, horizon)."""
        games = np.arange(len(self._rngs))
        likely, best = self._uniform, self._plans
        for i in range(self._rounds):
            tried = self._draw(likely, self._size)
            tried[:, 0] = best
            values = simulator.values(tried, self.DISCOUNT)
            # Of equals the first: what is going on already.
            best = tried[games, values.argmax(axis=1)]
            if i + 1 < self._rounds:
                count = max(1, int(self._size * self.ELITE))
                order = np.argsort(-values, axis=1, kind="stable")[:, :count]
                elite = np.take_along_axis(tried, order[..., None], axis=1)
                # Where most earn the same, nothing mostly, those are no better than any others.
                better = np.take_along_axis(values, order, 1) > values.min(axis=1, keepdims=True)
                taken = elite[..., None] == np.arange(self._num_actions)
                taken = (taken * better[..., None, None]).sum(axis=1)
                taken = taken / np.maximum(better.sum(axis=1), 1)[:, None, None]
                found = (1 - self.SMOOTHING) * taken + self.SMOOTHING * self._uniform
                likely = np.where(better.any(axis=1)[:, None, None], found, likely)
        # What follows the first action is where the next decision starts from.
        self._plans = np.stack([self._go_on(*one) for one in zip(best, self._rngs, strict=True)])
        return best

    def _go_on(self, plan, rng):
        """The rest of a plan and one action more: mostly the last one held."""
        other = rng.integers(self._num_actions)
        held = rng.random() < 1 - 1 / np.mean(self.HOLD_STEPS)
        return np.append(plan[1:], plan[-1] if held else other)

    def _draw(self, likely, count):
        """Held actions (games, count, horizon), from each step's probabilities."""
        limits = np.cumsum(likely, axis=2)[..., :-1]
        means = np.resize(self.HOLD_STEPS, (count, 1))
        drawn = []
        for limit, rng in zip(limits, self._rngs, strict=True):
            actions = (rng.random((count, len(limit), 1)) >= limit).sum(axis=2)
            drawn.append(hold(actions, means, rng))
        return np.stack(drawn)


class Play(NamedTuple):
    """How episodes of the real game are played."""

    game: str
    frame_skip: int
    warmup: int  # frames played at random before the first decision, which a model has to see
    method: str
    horizon: int
    num_rollouts: int
    max_steps: int  # decisions in an episode
    seed: int


class Played(NamedTuple):
    """What came of an episode."""

    earned: float  # points
    steps: int  # decisions
    begun: float  # when the first of them had been made, in seconds of `time.time`
    ended: float  # the last


class Watcher(Protocol):
    """Is shown a game before each decision is carried out."""

    def watch(self, game: AtariGame, plan: np.ndarray) -> None:
        """Sees the game as it is and the actions planned, int (steps,)."""


def play_episodes(
    play: Play,
    episodes: Sequence[int],
    simulator_of: Callable[[list[AtariGame]], Simulator] | None,
    shape: tuple[int, int, int] | None = None,
    watcher: Watcher | None = None,
) -> list[Played]:
    """Plays episodes of the real game side by side, one decision in each at a time.

    The first frames, which the model has to see, are played alike with every simulator.

    Args:
        play: how.
        episodes: their numbers; with the seed a number decides all that is drawn in an episode.
        simulator_of: returns the simulator of the games; None to play at random.
        shape: of the frames that the simulator observes; None if it needs none.
        watcher: of the first episode.
    """
    rngs = [np.random.default_rng([play.seed, episode]) for episode in episodes]
    games = [AtariGame(play.game, frame_skip=play.frame_skip) for _ in rngs]
    at_random = [PersistentPolicy(*one) for one in zip(games, rngs, strict=True)]
    earned, steps = np.zeros(len(games)), np.zeros(len(games), int)

    def take(actions):
        """Goes on in the games that are not over; returns in which."""
        alive = np.array([not (game.terminated or game.truncated) for game in games])
        for i in np.flatnonzero(alive):
            earned[i] += games[i].step(int(actions[i]))[1]
        return alive

    def look():
        return None if shape is None else np.stack([game.observation(shape) for game in games])

    frames, actions = [look()], []
    for _ in range(play.warmup - 1):
        actions.append(np.array([policy.action() for policy in at_random]))
        take(actions[-1])
        frames.append(look())
    if simulator_of:
        simulator = simulator_of(games)
        planner = Planner(games[0].num_actions, play.horizon, play.num_rollouts, play.method, rngs)
        if shape is not None:
            simulator.begin(np.stack(frames, axis=1), np.stack(actions, axis=1))
    begun, watching = time.time(), 0.0
    for i in tqdm(range(play.max_steps), desc="side by side", unit="step", disable=shape is None):
        if simulator_of:
            plans = planner.plan(simulator)
        else:
            plans = np.array([[policy.action()] for policy in at_random])
        if watcher and not (games[0].terminated or games[0].truncated):
            started = time.time()
            watcher.watch(games[0], plans[0])
            watching += time.time() - started  # is no part of deciding
        alive = take(plans[:, 0])
        if not alive.any():
            break
        steps += alive
        if simulator_of and shape is not None:
            simulator.observe(look(), plans[:, 0])
        if i == 0:
            begun, watching = time.time(), 0.0
    ended = time.time() - watching
    return [Played(float(e), int(s), begun, ended) for e, s in zip(earned, steps, strict=True)]


def play_in_processes(
    play: Play, num_episodes: int, simulator: str, num_workers: int
) -> list[Played]:
    """Plays episodes 0, 1, ..., each in a process: ALE keeps Python's lock while it emulates.

    Args:
        play: how.
        num_episodes: their number.
        simulator: "emulator" or "none".
        num_workers: how many processes there are at most.
    """
    jobs = [(play, simulator, episode) for episode in range(num_episodes)]
    # Closed whatever happens, so that no worker goes on with an episode that nobody waits for.
    with contextlib.closing(answers(num_workers, jobs, "systems.planning")) as played:
        bar = tqdm(played, desc=simulator, total=len(jobs), unit="episode")
        found = {episode: one for (_, _, episode), one in bar}
    return [found[episode] for episode in range(num_episodes)]


class _ParentThere:
    """Ends an episode that nobody waits for any more, by the error that `parent` expects."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def watch(self, game: AtariGame, plan: np.ndarray) -> None:
        """Asks before each decision."""
        require_parent(self._connection)


def work() -> None:
    """What a worker process does: plays the episodes that the parent names."""
    with parent() as (connection, _):
        while True:
            play, simulator, episode = connection.recv()
            find = (lambda games: EmulatorSimulator(games[0])) if simulator == "emulator" else None
            (played,) = play_episodes(play, [episode], find, watcher=_ParentThere(connection))
            connection.send(played)
