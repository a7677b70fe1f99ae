"""A trained checkpoint as a Gymnasium environment: acting in the compressed game.

    import gymnasium
    import systems.compressed_env  # registers CompressedAtari-v0

    checkpoint = "checkpoints/freeway/lstm_84x84x1/compress_seq_5_reward"
    gymnasium.make("CompressedAtari-v0", checkpoint=checkpoint)
    gymnasium.make_vec("CompressedAtari-v0", num_envs=256, checkpoint=checkpoint)

An episode starts after ten real frames drawn from a data set; from there on all is imagined.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from model.predictor import REWARD_CLASSES, State
from model.transitions import FastImagination
from systems.errors import InputError
from utils.checkpoints import check_tells_rewards, load_predictor, read_config
from utils.dataset import Windows, find_dataset
from utils.evaluation import pixels

OBSERVATION_TYPES = ("frame", "latent")
REWARD_TYPES = ("expected", "sampled")
MAX_EPISODE_STEPS = 500  # unless it is said otherwise


class GameState(NamedTuple):
    """A moment of an imagined game, for exact branching."""

    predictor: State  # arrays of one row
    observation: np.ndarray
    steps: int
    random: dict[str, Any]


class _Games:
    """Several imagined games side by side: what both environments are made of."""

    def __init__(
        self, num_games, checkpoint, dataset, observation_type, reward_type, max_episode_steps
    ):
        for value, choices, name in (
            (observation_type, OBSERVATION_TYPES, "observation_type"),
            (reward_type, REWARD_TYPES, "reward_type"),
        ):
            if value not in choices:
                raise InputError(f"expected {name} to be one of {choices}, received {value!r}")
        if max_episode_steps is not None and max_episode_steps < 1:
            raise InputError(
                f"expected max_episode_steps of at least 1, received {max_episode_steps}"
            )
        config = read_config(checkpoint)
        check_tells_rewards(config, checkpoint)
        meanings = config["action_meanings"]
        self.predictor = load_predictor(checkpoint, precision="auto")
        self.latent = observation_type == "latent"
        self.sampled = reward_type == "sampled"
        self.max_episode_steps = np.inf if max_episode_steps is None else max_episode_steps
        shape, self.warmup = self.predictor.preset.frame_shape, config["warmup"]
        self.dataset = find_dataset(
            dataset or config["data"]["test"], config["game"], len(meanings)
        )
        # One frame more than is shown: nothing comes after an episode's last.
        self._windows = Windows(self.dataset, shape, self.warmup + 1, 1, seed=0)
        self._look_ahead = FastImagination(self.predictor, decode=not self.latent)
        self.action_space = spaces.Discrete(len(meanings))
        if self.latent:
            units = self.predictor.preset.units
            self.observation_space = spaces.Box(-1.0, 1.0, (units,), np.float32)
        else:
            self.observation_space = spaces.Box(0, 255, shape, np.uint8)
        self.state: State | None = None
        space = batch_space(self.observation_space, num_games)
        self.observations = np.zeros(space.shape, space.dtype)
        self.steps = np.zeros(num_games, np.int64)

    def restart(self, games: np.ndarray, rng: np.random.Generator) -> None:
        """Starts games, bool (num_games,), anew: ten real frames, drawn from the data set.

        At first all of them.
        """
        if self.state is None:
            games = np.ones_like(games)
        if not games.any():
            return
        numbers = rng.integers(self._windows.num_windows, size=int(games.sum()))
        read = [
            self.dataset.read(*self._windows.window(n), self.warmup, self._windows.shape)
            for n in numbers
        ]
        frames, actions = (np.stack([r[key] for r in read]) for key in ("frames", "actions"))
        fresh = self.predictor.observe(frames, actions)
        fresh = self._needed(State(*(np.array(part, np.float32) for part in fresh)))
        if self.state is None:
            self.state = State(
                *(np.zeros((len(games), *part.shape[1:]), np.float32) for part in fresh)
            )
        # What a step has left cannot be written into, and may hold one array twice.
        self.state = State(*(np.array(part) for part in self.state))
        self.observations = np.array(self.observations)
        for part, value in zip(self.state, fresh, strict=True):
            part[games] = value
        self.observations[games] = (
            fresh.h if self.latent else pixels(frames[:, -1:], self.dataset.palette())[:, 0]
        )
        self.steps[games] = 0

    def _needed(self, state):
        """The compression variant never looks back at frames: they would only be copied about."""
        if self.predictor.variant == "paper":
            return state
        return state._replace(recent=np.zeros((len(state.h), 0), np.float32))

    def step(self, actions: np.ndarray, rng: np.random.Generator):
        """Imagines one step of every game: rewards, terminations and truncations."""
        actions = np.asarray(actions, np.int32)
        if not ((actions >= 0) & (actions < self.action_space.n)).all():
            raise InputError(
                f"expected actions in 0..{self.action_space.n - 1}, received {actions.tolist()}"
            )
        found = self._look_ahead(self.state, actions[:, None])
        self.state = found["state"]
        if self.latent:
            self.observations = np.asarray(self.state.h)
        else:
            self.observations = np.rint(found["frames"][:, 0]).astype(np.uint8)
        self.steps += 1
        probabilities = np.asarray(found["reward"][:, 0], np.float64)
        ends = np.asarray(found["termination"][:, 0], np.float64)
        if self.sampled:
            below = np.cumsum(probabilities[:, :-1], axis=1)
            classes = (rng.random((len(below), 1)) > below).sum(axis=1)
            rewards = np.array(REWARD_CLASSES, np.float64)[classes]
            terminated = rng.random(len(ends)) < ends
        else:
            rewards = probabilities @ np.array(REWARD_CLASSES, np.float64)
            terminated = ends > 0.5
        return rewards, terminated, self.steps >= self.max_episode_steps

    def render(self, game: int) -> np.ndarray:
        """The current frame of a game, uint8 RGB (height, width, 3)."""
        frame = self.observations[game]
        if self.latent:
            network = self.predictor.network
            output = self.state.h[game : game + 1, None]
            frame = np.rint(network.denormalise(network.decode(output)))[0, 0].astype(np.uint8)
        return frame if frame.shape[-1] == 3 else np.repeat(frame, 3, axis=-1)


class CompressedAtariEnv(gymnasium.Env):
    """One imagined game.

    Args:
        checkpoint: a `*_reward` stage's directory, of either variant.
        dataset: where the ten real frames before each episode come from; by default the
            checkpoint's test set.
        observation_type: "frame", uint8 (height, width, channels), or "latent", the LSTM's output
            for the current frame, float32 (2048,); then nothing is decoded.
        reward_type: "expected": P(+1) - P(-1), and the episode ends where that is more likely than
            not. "sampled": both are drawn from the predicted probabilities.
        max_episode_steps: steps after which an episode is truncated; None: never, by itself. What
            `gymnasium.make` makes is truncated after 500, or its own `max_episode_steps`.
        render_mode: None or "rgb_array".
    """

    metadata: ClassVar = {"render_modes": ["rgb_array"], "render_fps": 15}

    def __init__(
        self,
        checkpoint: str | Path,
        dataset: str | Path | None = None,
        observation_type: str = "frame",
        reward_type: str = "expected",
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
    ):
        self._games = _Games(
            1, checkpoint, dataset, observation_type, reward_type, max_episode_steps
        )
        self.observation_space = self._games.observation_space
        self.action_space = self._games.action_space
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """Starts an episode; see gymnasium.Env."""
        super().reset(seed=seed)
        self._games.restart(np.array([True]), self.np_random)
        return self._games.observations[0].copy(), {}

    def step(self, action: int):
        """Imagines one step; see gymnasium.Env."""
        rewards, terminated, truncated = self._games.step([action], self.np_random)
        observation = self._games.observations[0].copy()
        return observation, float(rewards[0]), bool(terminated[0]), bool(truncated[0]), {}

    def render(self) -> np.ndarray | None:
        """The current frame, uint8 RGB (height, width, 3), in render mode "rgb_array"."""
        return self._games.render(0) if self.render_mode == "rgb_array" else None

    def get_state(self) -> GameState:
        """The present moment, from which `set_state` goes on any number of times."""
        games = self._games
        state = State(*(np.array(part) for part in games.state))
        random = self.np_random.bit_generator.state
        return GameState(state, games.observations.copy(), int(games.steps[0]), random)

    def set_state(self, state: GameState) -> None:
        """Goes back to a moment that `get_state` returned."""
        games = self._games
        games.state = State(*(np.array(part) for part in state.predictor))
        games.observations = state.observation.copy()
        games.steps[0] = state.steps
        self.np_random.bit_generator.state = state.random


class CompressedAtariVectorEnv(VectorEnv):
    """Many imagined games, stepped as one batch. See CompressedAtariEnv for the arguments.

    Episodes are truncated after `max_episode_steps`, by `gymnasium.make_vec` too.
    A game that has ended starts anew in the step after, which ignores its action and earns nothing
    (Gymnasium's NEXT_STEP).
    """

    metadata: ClassVar = {
        "render_modes": ["rgb_array"],
        "render_fps": 15,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self,
        checkpoint: str | Path,
        num_envs: int = 1,
        dataset: str | Path | None = None,
        observation_type: str = "frame",
        reward_type: str = "expected",
        max_episode_steps: int | None = MAX_EPISODE_STEPS,
        render_mode: str | None = None,
    ):
        self._games = _Games(
            num_envs, checkpoint, dataset, observation_type, reward_type, max_episode_steps
        )
        self.num_envs = num_envs
        self.single_observation_space = self._games.observation_space
        self.single_action_space = self._games.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.render_mode = render_mode
        self._ended = np.zeros(num_envs, bool)

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """Starts an episode of every game; see gymnasium.vector.VectorEnv.

        With ``options={"reset_mask": bool (num_envs,)}`` of those games alone.
        """
        super().reset(seed=seed)
        mask = np.asarray((options or {}).get("reset_mask", np.ones(self.num_envs, bool)))
        if mask.shape != (self.num_envs,) or mask.dtype != bool:
            raise InputError(
                f"expected reset_mask to be bool ({self.num_envs},), received {mask.dtype} "
                f"{mask.shape}"
            )
        self._games.restart(mask, self.np_random)
        self._ended[mask] = False
        return self._games.observations.copy(), {}

    def step(self, actions: np.ndarray):
        """Imagines one step of every game; see gymnasium.vector.VectorEnv."""
        rewards, terminated, truncated = self._games.step(actions, self.np_random)
        if self._ended.any():
            self._games.restart(self._ended, self.np_random)
            rewards[self._ended] = 0.0
            terminated[self._ended] = truncated[self._ended] = False
        self._ended = terminated | truncated
        return self._games.observations.copy(), rewards, terminated, truncated, {}

    def render(self) -> tuple[np.ndarray, ...] | None:
        """The current frames, uint8 RGB (height, width, 3) each, in render mode "rgb_array"."""
        if self.render_mode != "rgb_array":
            return None
        return tuple(self._games.render(game) for game in range(self.num_envs))


gymnasium.register(
    "CompressedAtari-v0",
    entry_point="systems.compressed_env:CompressedAtariEnv",
    vector_entry_point="systems.compressed_env:CompressedAtariVectorEnv",
    max_episode_steps=MAX_EPISODE_STEPS,
)
