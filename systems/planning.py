"""Plans actions: tries sequences of them in a simulator and begins the best one.

A simulator predicts the rewards of sequences of actions from the present moment of a real game. It
is the emulator itself, cloned, or a trained model that observes the game frame by frame
(`utils.acting.simulator`). Nothing here imports Keras, because a worker process would take longer
to import it than to play many decisions.
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
from systems.real_game import RealGame
from systems.seeds import episode_seed, generator
from systems.workers import answers, parent, require_parent

METHODS = ("shooting", "cem")


class Simulator(Protocol):
    """Looks ahead from the present moment of several real games at once."""

    def begin(self, frames: np.ndarray, actions: np.ndarray) -> None:
        """Observes the first frames of each game.

        Args:
            frames: uint8 (games, time, height, width, channels).
            actions: int (games, time - 1), between the frames.
        """

    def observe(self, frames: np.ndarray, actions: np.ndarray) -> None:
        """Observes each game's next frame, uint8 (games, ...), and the action that led to it."""

    def keep(self, games: np.ndarray) -> None:
        """Forgets all games but some, bool (games,)."""

    def values(self, actions: np.ndarray, discount: float) -> np.ndarray:
        """Returns the discounted rewards of sequences of actions from here.

        Rewards count by their sign, because that is what the model predicts.

        Args:
            actions: int (games, sequences, steps).
            discount: what a reward is multiplied by for each step that it is later.

        Returns:
            float (games, sequences).
        """


class EmulatorSimulator:
    """The game's own emulator, cloned, which is a perfect model."""

    def __init__(self, game: AtariGame):
        self._game = game

    def begin(self, frames: np.ndarray, actions: np.ndarray) -> None:
        """Does nothing: the emulator is where it is."""

    def observe(self, frames: np.ndarray, actions: np.ndarray) -> None:
        """Does nothing: the emulator is where it is."""

    def keep(self, games: np.ndarray) -> None:
        """Does nothing: there is one game."""

    def values(self, actions: np.ndarray, discount: float) -> np.ndarray:
        """See `Simulator`. There is one game."""
        rewards = np.sign(self._game.rewards_ahead(actions[0]))
        return (rewards @ discount ** np.arange(actions.shape[2]))[None]


class Planner:
    """Model-predictive control: plans a sequence of actions at every step and plays its first.

    "shooting" (random shooting) draws sequences of held actions and takes the one with the largest
    value. "cem" (the cross-entropy method) draws them in rounds. Each later round draws a step's
    actions as often as the best sequences of the round before took them.

    Both methods also try the rest of the plan before. They keep to it if no sequence is better.

    Args:
        num_actions: of the game.
        horizon: steps looked ahead.
        num_rollouts: sequences tried for a game in a decision, all rounds together, at least 2.
        method: one of `METHODS`.
        rngs: one for each game, which its sequences are drawn from.
    """

    DISCOUNT = 0.97
    HOLD_STEPS = (32, 16, 8, 4, 2)  # mean steps that actions are held, equally often
    ROUNDS = 3  # of the cross-entropy method
    ELITE = 0.15  # share of a round's sequences
    SMOOTHING = 0.1  # share of each step's actions that is drawn uniformly

    def __init__(
        self,
        num_actions: int,
        horizon: int,
        num_rollouts: int,
        method: str,
        rngs: list[np.random.Generator],
    ):
        self._num_actions, self._rngs = num_actions, rngs
        # All rounds have one size, so that a model compiles once. The rest of the division is not
        # tried. A round has at least one sequence beside the plan before.
        self._rounds = max(1, min(self.ROUNDS, num_rollouts // 2)) if method == "cem" else 1
        self._size = num_rollouts // self._rounds
        self._uniform = np.full((len(rngs), horizon, num_actions), 1 / num_actions)
        self._plans = self._draw(self._uniform, 1)[:, 0]

    @property
    def num_tried(self) -> int:
        """Sequences tried for a game in a decision, which the rounds share evenly."""
        return self._rounds * self._size

    def keep(self, games: np.ndarray) -> None:
        """Forgets all games but some, bool (games,)."""
        self._rngs = [rng for rng, kept in zip(self._rngs, games, strict=True) if kept]
        self._uniform, self._plans = self._uniform[games], self._plans[games]

    def plan(self, simulator: Simulator) -> np.ndarray:
        """Returns each game's best sequence of actions from here, int (games, horizon)."""
        games = np.arange(len(self._rngs))
        likely, best = self._uniform, self._plans
        for i in range(self._rounds):
            tried = self._draw(likely, self._size)
            tried[:, 0] = best
            values = simulator.values(tried, self.DISCOUNT)
            # argmax takes the first of equals, which is the plan before.
            best = tried[games, values.argmax(axis=1)]
            if i + 1 < self._rounds:
                count = max(1, int(self._size * self.ELITE))
                order = np.argsort(-values, axis=1, kind="stable")[:, :count]
                elite = np.take_along_axis(tried, order[..., None], axis=1)
                # If most sequences earn the same (usually 0), they are no elite.
                better = np.take_along_axis(values, order, 1) > values.min(axis=1, keepdims=True)
                taken = elite[..., None] == np.arange(self._num_actions)
                taken = (taken * better[..., None, None]).sum(axis=1)
                taken = taken / np.maximum(better.sum(axis=1), 1)[:, None, None]
                smoothed = (1 - self.SMOOTHING) * taken + self.SMOOTHING * self._uniform
                likely = np.where(better.any(axis=1)[:, None, None], smoothed, likely)
        # The next decision starts from what follows the first action.
        self._plans = np.stack([self._rest(*one) for one in zip(best, self._rngs, strict=True)])
        return best

    def _rest(self, plan, rng):
        """Returns a plan without its first action, with one more at its end: mostly the last."""
        other = rng.integers(self._num_actions)
        held = rng.random() < 1 - 1 / np.mean(self.HOLD_STEPS)
        return np.append(plan[1:], plan[-1] if held else other)

    def _draw(self, likely, count):
        """Draws held actions (games, count, horizon) by each step's probabilities."""
        limits = np.cumsum(likely, axis=2)[..., :-1]
        means = np.resize(self.HOLD_STEPS, (count, 1))
        drawn = []
        for limit, rng in zip(limits, self._rngs, strict=True):
            actions = (rng.random((count, len(limit), 1)) >= limit).sum(axis=2)
            drawn.append(hold(actions, means, rng))
        return np.stack(drawn)


class Play(NamedTuple):
    """How episodes of the real game are played."""

    game: RealGame
    warmup: int  # frames that a model observes before the first decision, played at random
    method: str
    horizon: int
    num_rollouts: int
    max_steps: int  # decisions in an episode
    seed: int


class Played(NamedTuple):
    """The result of an episode."""

    earned: float  # points
    steps: int  # decisions
    begun: float  # when the first decision had been carried out, in seconds of `time.monotonic`
    ended: float  # when the last one had


class Watcher(Protocol):
    """Is called before each decision is carried out."""

    def watch(self, game: AtariGame, plan: np.ndarray) -> None:
        """Receives the game as it is and the actions planned, int (steps,)."""


def play_side_by_side(
    play: Play,
    episodes: Sequence[int],
    simulator_of: Callable[[list[AtariGame]], Simulator] | None,
    shape: tuple[int, int, int] | None = None,
    watcher: Watcher | None = None,
) -> list[Played]:
    """Plays episodes of the real game side by side, one decision in each at a time.

    The warm-up is the same with every simulator.

    Args:
        play: how.
        episodes: their numbers. All that is drawn in an episode depends on its number and the seed.
        simulator_of: returns the simulator of some games. None: play at random.
        shape: of the frames that the simulator observes. None: it observes none.
        watcher: of the first episode.
    """
    rngs = [generator("planning", play.seed, episode) for episode in episodes]
    games = [play.game.begin() for _ in rngs]
    for game, episode in zip(games, episodes, strict=True):
        game.reset(episode_seed("planning", play.seed, episode))
    at_random = [PersistentPolicy(*one) for one in zip(games, rngs, strict=True)]
    earned, steps = np.zeros(len(games)), np.zeros(len(games), int)
    planned = np.arange(len(games))  # the games in the planner's batch

    def alive():
        """Which of the planned games are not over, bool (planned,)."""
        return np.array([not (games[i].terminated or games[i].truncated) for i in planned])

    def take(actions):
        """Plays one step of the planned games that are not over."""
        left = alive()
        for i, action in zip(planned[left], actions[left], strict=True):
            earned[i] += games[i].step(int(action))[1]

    def observations():
        return None if shape is None else np.stack([games[i].observation(shape) for i in planned])

    frames, actions = [observations()], []
    for _ in range(play.warmup - 1):
        actions.append(np.array([policy.action() for policy in at_random]))
        take(actions[-1])
        frames.append(observations())
    if simulator_of:
        simulator = simulator_of(games)
        planner = Planner(games[0].num_actions, play.horizon, play.num_rollouts, play.method, rngs)
        if shape is not None:
            simulator.begin(np.stack(frames, axis=1), np.stack(actions, axis=1))
    begun, watching = time.monotonic(), 0.0
    for i in tqdm(range(play.max_steps), desc="side by side", unit="step", disable=shape is None):
        left = alive()
        if not left.any():
            break
        if simulator_of:
            plans = planner.plan(simulator)
        else:
            plans = np.array([[at_random[i].action()] for i in planned])
        if watcher and not (games[0].terminated or games[0].truncated):
            started = time.monotonic()
            watcher.watch(games[0], plans[0])
            watching += time.monotonic() - started  # which does not count as deciding
        steps[planned[left]] += 1
        take(plans[:, 0])
        # By halves, because a model compiles for each number of games.
        left = alive()
        if left.any() and left.sum() <= len(left) / 2:
            planned, plans = planned[left], plans[left]
            if simulator_of:
                planner.keep(left)
                simulator.keep(left)
        if simulator_of and shape is not None:
            simulator.observe(observations(), plans[:, 0])
        if i == 0:
            begun, watching = time.monotonic(), 0.0
    ended = time.monotonic() - watching
    return [Played(float(e), int(s), begun, ended) for e, s in zip(earned, steps, strict=True)]


def play_in_processes(
    play: Play, num_episodes: int, simulator: str, num_workers: int
) -> list[Played]:
    """Plays episodes 0, 1, ... in worker processes, as `play_side_by_side` plays each alone.

    Threads would take turns, because ALE keeps Python's lock while it emulates.

    Args:
        play: how.
        num_episodes: their number.
        simulator: "emulator" or "none".
        num_workers: how many processes there are at most.
    """
    jobs = [(play, simulator, episode) for episode in range(num_episodes)]
    # It is closed whatever happens, so that no worker plays on when nobody waits for it.
    workers = answers(num_workers, jobs, "systems.planning", "serve_planned_episodes")
    with contextlib.closing(workers) as answered:
        bar = tqdm(answered, desc=simulator, total=len(jobs), unit="episode")
        played = {episode: one for (_, _, episode), one in bar}
    return [played[episode] for episode in range(num_episodes)]


class _ParentCheck:
    """Ends an episode when the parent has gone, by the error that `parent` expects."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def watch(self, game: AtariGame, plan: np.ndarray) -> None:
        """Checks before each decision."""
        require_parent(self._connection)


def serve_planned_episodes() -> None:
    """Runs in a worker process: plays the episodes that the parent asks for."""
    with parent() as (connection, _):
        while True:
            play, simulator, episode = connection.recv()
            make = (lambda games: EmulatorSimulator(games[0])) if simulator == "emulator" else None
            watcher = _ParentCheck(connection)
            (played,) = play_side_by_side(play, [episode], make, watcher=watcher)
            connection.send(played)
