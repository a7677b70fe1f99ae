"""What an agent earns in the real game.

The protocol is that of CGSReg (github.com/LYK-love/CGSReg): whole games, each after 1 to 30 no-ops,
without sticky actions, and the policy's likeliest action. Drawn actions are tried, too, because the
likeliest ones may go in circles. The model stays in step with the game: it observes each frame. The
agent decides from the LSTM's output, as in the imagined game.

Up to thirty games differ in their no-ops. Games of one policy that begin alike go on alike, because
the emulator is deterministic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from tqdm import tqdm

from model.predictor import FramePredictor, Observation
from systems.atari import MAX_NO_OPS
from systems.errors import check_writable, say
from systems.files import write_json
from systems.policies import PersistentPolicy, RandomPolicy
from systems.provenance import made
from systems.seeds import generator
from utils.acting.agent_files import TrainedAgent
from utils.acting.bootstrap import interval_of, resampled
from utils.config import CheckpointConfig
from utils.watching import video

FILMED_STEPS = 300
STANDSTILL = 450  # steps without a new screen, half a minute of play, that end a game
PLAYERS = {"random": RandomPolicy, "persistent": PersistentPolicy}  # to compare with


class Watcher(Protocol):
    """Is called before each step of the first game."""

    def watch(self, frame: np.ndarray, output: np.ndarray, action: int) -> None:
        """Receives the real frame, the LSTM's output (1, units), and the action chosen."""


def score(
    directory: Path,
    num_episodes: int,
    max_steps: int,
    json: Path | None = None,
    film: Path | None = None,
) -> None:
    """Plays with an agent and by chance, prints what they earned and writes what is asked for.

    Args:
        directory: of the agent.
        num_episodes: of each player.
        max_steps: of an episode.
        json: file of all figures.
        film: file of a video of the first episode.

    Raises:
        InputError: the agent, its checkpoint or the disk cannot be used.
    """
    if json:
        check_writable(json)
    if film:
        video.check_output(film)
    agent = TrainedAgent(directory)
    config, training = agent.checkpoint.config, agent.config.training
    predictor = agent.checkpoint.predictor(precision="auto")
    camera = Camera(predictor, config.action_meanings) if film else None
    results = {
        "agent": str(directory),
        "checkpoint": agent.config.checkpoint,
        "game": config.game,
        "simulator": training.simulator,
        "steps": training.num_updates * training.steps_per_update,
        "steps_per_second": agent.config.steps_per_second,
        "imagined_return": agent.config.imagined_return,
        "trained": agent.config.made,
        "max_steps": max_steps,
        "made": made(agent=training.seed, checkpoint=config.training.seed),
        "players": {},
    }
    rng = generator("agent", 0)
    policies = {"agent": agent.actions, "drawn": lambda outputs: agent.drawn_actions(outputs, rng)}
    returns = {}
    for player, policy in policies.items():
        watcher = camera if player == "agent" else None
        returns[player] = agents_returns(
            config, predictor, policy, num_episodes, max_steps, watcher
        )
    for player in PLAYERS:
        returns[player] = players_returns(config, player, num_episodes, max_steps)
    returns["constant"] = best_constant(config, num_episodes, max_steps)
    for player, points in returns.items():
        results["players"][player] = told = summary(points)
        low, high = told["interval"]
        say(
            f"{config.game}, {player}: {told['mean']:.1f} points on average [{low:.1f}, {high:.1f}]"
            f", spread {told['spread']:.1f}, {num_episodes} episodes"
        )
    if json:
        write_json(json, results)
    if film:
        video.write_video(film, camera.frames(), fps=15)


class Camera:
    """Films the real game beside what the model expected, one step before."""

    def __init__(self, predictor: FramePredictor, meanings: Sequence[str]):
        self._network, self._meanings = predictor.network, meanings
        self._real, self._expected, self._captions = [], [], []

    def watch(self, frame: np.ndarray, output: np.ndarray, action: int) -> None:
        """See `Watcher`."""
        if len(self._real) == FILMED_STEPS:
            return
        expected = self._network.denormalise(self._network.decode(output[:, None]))
        self._real.append(video.to_uint8_rgb(frame))
        self._expected.append(video.to_uint8_rgb(np.asarray(expected)[0, 0]))
        self._captions.append(f"step {len(self._real)}  {self._meanings[action]}")

    def frames(self):
        """Yields the video's frames."""
        return video.side_by_side({"game": self._real, "expected": self._expected}, self._captions)


def agents_returns(
    config: CheckpointConfig,
    predictor: FramePredictor,
    policy: Callable[[np.ndarray], np.ndarray],
    num_episodes: int,
    max_steps: int,
    watcher: Watcher | None = None,
) -> list[float]:
    """Plays episodes side by side; returns the points of each.

    Args:
        config: of the checkpoint.
        num_episodes: how many.
        predictor, policy, max_steps, watcher: see `agents_games`.
    """
    games = different(config, num_episodes)
    earned, _ = agents_games(games, config, predictor, policy, max_steps, watcher)
    return earned


def agents_games(
    games: Sequence,
    config: CheckpointConfig,
    predictor: FramePredictor,
    policy: Callable[[np.ndarray], np.ndarray],
    max_steps: int,
    watcher: Watcher | None = None,
) -> tuple[list[float], list[list[int]]]:
    """Plays games side by side; returns the points and the actions of each.

    Args:
        games: at the beginning of their episodes.
        config: of the checkpoint.
        predictor: which observes the games.
        policy: maps outputs, float32 (games, units), to actions, int (games,).
        max_steps: of an episode.
        watcher: of the first one.
    """
    shape = predictor.preset.frame_shape
    observed = np.arange(len(games))  # the games in the model's batch
    actions = np.full(len(games), wait(config.action_meanings))

    def seen(*times):
        return {
            "frames": np.stack(times, axis=1),
            "actions": actions[observed, None].astype(np.int32),
        }

    def frames():
        return np.stack([games[i].observation(shape) for i in observed])

    # There is an output after the second frame, so the first step waits.
    first, earned = frames(), step(games, actions)
    taken = [[int(action)] for action in actions]
    observe, go_on = Observation(predictor), Observation(predictor)
    state = observe.predict_on_batch(seen(first, frames()))
    bar = tqdm(range(max_steps - 1), desc="real games", unit="step")
    for _ in bar:
        bar.set_postfix_str(f"{alive(games).sum()} games", refresh=False)
        outputs = np.asarray(state.h, np.float32)
        actions[observed] = policy(outputs)
        if watcher and alive(games)[0]:
            watcher.watch(games[0].observation(shape), outputs[:1], int(actions[0]))
        for i in np.flatnonzero(alive(games)):
            taken[i].append(int(actions[i]))
        earned += step(games, actions)
        left = alive(games)[observed]
        if not left.any():
            break
        # By halves, because each size of batch may compile.
        if left.sum() <= len(observed) / 2:
            observed = observed[left]
            state = type(state)(*(np.asarray(part)[left] for part in state))
        state = go_on.predict_on_batch({**seen(frames()), "state": state})
    return earned.tolist(), taken


def players_returns(
    config: CheckpointConfig, player: str, num_episodes: int, max_steps: int
) -> list[float]:
    """What one of `PLAYERS` earns in the same games."""
    games = different(config, num_episodes)
    policies = [
        PLAYERS[player](game, generator("planning", 0, number)) for number, game in enumerate(games)
    ]
    return _play(games, lambda: np.array([policy.action() for policy in policies]), max_steps)


def best_constant(config: CheckpointConfig, num_episodes: int, max_steps: int) -> list[float]:
    """What the action earns in the same games that earns most of those held all the time."""
    returns = [
        _play(different(config, num_episodes), lambda a=action: np.full(num_episodes, a), max_steps)
        for action in range(len(config.action_meanings))
    ]
    return max(returns, key=sum)


def _play(games, choose, max_steps):
    """Plays until all games are over; returns the points of each."""
    earned = np.zeros(len(games))
    for _ in range(max_steps):
        earned += step(games, choose())
        if not alive(games).any():
            break
    return earned.tolist()


class UntilStandstill:
    """A real game that also ends when it shows nothing new: no screen but those shown just before.

    Some games wait for the player to serve, and the paddle trembles meanwhile. Who never serves
    would play for ever, and earn nothing.
    """

    def __init__(self, game):
        self._game = game
        self._steps, self._newest, self._shown = 0, 0, {}

    def __getattr__(self, name):
        return getattr(self._game, name)

    @property
    def truncated(self) -> bool:
        """Whether nothing new has come for so long, or it has been cut off."""
        return self._steps - self._newest >= STANDSTILL or self._game.truncated

    def step(self, action: int) -> tuple[np.ndarray, float, bool]:
        """Plays an action; returns the screen, the points and whether the game is over."""
        played = self._game.step(action)
        self._steps += 1
        screen = hash(played[0].tobytes())
        if self._steps - self._shown.get(screen, -STANDSTILL) > STANDSTILL:
            self._newest = self._steps
        self._shown[screen] = self._steps
        return played


def begun(config: CheckpointConfig, seeds: Sequence[int]) -> list[UntilStandstill]:
    """The games at the beginning of the episodes of these seeds."""
    games = [config.begin_real_game() for _ in seeds]
    for seed, game in zip(seeds, games, strict=True):
        game.reset(seed)
    return [UntilStandstill(game) for game in games]


def different(config: CheckpointConfig, num_episodes: int) -> list[UntilStandstill]:
    """So many games at the beginning of their episodes; up to `MAX_NO_OPS` of Atari all differ."""
    if config.environment:
        return begun(config, range(num_episodes))
    games = [config.begin_real_game() for _ in range(num_episodes)]
    for number, game in enumerate(games):
        # All of 1 to MAX_NO_OPS in turn, and few games are spread over them.
        game.start(1 + 7 * number % MAX_NO_OPS)
    return [UntilStandstill(game) for game in games]


def alive(games: Sequence) -> np.ndarray:
    """Which games are not over, bool (games,)."""
    return np.array([not (game.terminated or game.truncated) for game in games])


def step(games: Sequence, actions: np.ndarray) -> np.ndarray:
    """Plays a step of the games that are not over; returns their points, float (games,)."""
    earned = np.zeros(len(games))
    for i in np.flatnonzero(alive(games)):
        earned[i] = games[i].step(int(actions[i]))[1]
    return earned


def wait(meanings: Sequence[str]) -> int:
    """The action that does nothing, or else the first one."""
    return meanings.index("NOOP") if "NOOP" in meanings else 0


def summary(returns: Sequence[float]) -> dict:
    """Returns scores, mean, spread (standard deviation) and interval of the mean (95 %)."""
    values = np.array(returns, np.float64)
    return {
        "scores": values.tolist(),
        "mean": float(values.mean()),
        "spread": float(values.std()),
        "interval": interval_of(values[resampled(len(values))].mean(axis=1)),
    }
