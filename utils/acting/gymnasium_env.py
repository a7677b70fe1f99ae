"""A trained checkpoint as a Gymnasium environment: an agent acts in the compressed game.

    import gymnasium
    import systems.compressed_env  # registers CompressedAtari-v0

    checkpoint = "checkpoints/freeway/lstm_84x84x1/compress_seq_5_reward"
    gymnasium.make("CompressedAtari-v0", checkpoint=checkpoint)
    gymnasium.make_vec("CompressedAtari-v0", num_envs=256, checkpoint=checkpoint)
    gymnasium.make("CompressedAtari-v0", pretrained="freeway", variant="compression")

An episode starts after ten real frames from a data set. The model imagines everything after them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from model.fast_imagination import FastImagination
from model.predictor import REWARD_CLASSES, State
from systems.errors import InputError
from systems.windows import Windows, WindowSpec
from utils.checkpoint import Checkpoint
from utils.pretrained import checkpoint_or_pretrained

OBSERVATION_TYPES = ("frame", "latent")
REWARD_TYPES = ("expected", "sampled")
MAX_EPISODE_STEPS = 500  # the default limit


class EnvState(NamedTuple):
    """A moment of an imagined game, for exact branching."""

    predictor: State  # arrays of one row
    observation: np.ndarray  # (1, ...), as the environment returns it
    steps: int  # since the episode's start
    random: dict[str, Any]  # the random generator's state


_IMPORTED_IN = os.getpid()


def _require_own_keras():
    """Raises InputError in a process that was forked from one with Keras, where it would hang."""
    if os.getpid() != _IMPORTED_IN:
        raise InputError(
            "expected an environment in the process that has imported Keras, received one in a "
            'forked process, as vectorization_mode="async" makes them. Leave that out: '
            "gymnasium.make_vec(..., num_envs=256) steps all games as one batch."
        )


class ImaginedGames:
    """Several imagined games, stepped as one batch: the core of both environments.

    Args:
        num_games: how many.
        checkpoint: directory of a stage that predicts rewards.
        dataset, observation_type, reward_type, max_episode_steps: see CompressedAtariEnv.

    Attributes:
        predictor: the FramePredictor that imagines.
        dataset: the data set with the real frames.
        num_starts: how many moments of the data set an episode can start from.
        action_space, observation_space: of one game.
        state: the `State` of all games; None before the first `restart`.
        observations: the current observations, (num_games, ...).
        steps: int64 (num_games,), steps since each episode's start.

    Raises:
        InputError: an argument is unknown, or the checkpoint or data set does not fit.
    """

    def __init__(
        self,
        num_games: int,
        checkpoint: str | Path,
        dataset: str | Path | None,
        observation_type: str,
        reward_type: str,
        max_episode_steps: int | None,
    ):
        _require_own_keras()
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
        checkpoint = Checkpoint(checkpoint)
        checkpoint.require_rewards()
        self.dataset = checkpoint.test_data(dataset)
        self.predictor = checkpoint.predictor(precision="auto")
        self._latent = observation_type == "latent"
        self._sampled = reward_type == "sampled"
        self._max_episode_steps = np.inf if max_episode_steps is None else max_episode_steps
        self._warmup = checkpoint.config.warmup
        self._palette = self.dataset.palette()
        shape = self.predictor.preset.frame_shape
        # A horizon of one step, because no episode can go on after its last frame.
        self._windows = Windows(self.dataset, shape, WindowSpec(self._warmup, horizon=1), 1, seed=0)
        self.num_starts = self._windows.num_windows
        self._imagination = FastImagination(self.predictor, decode=not self._latent)
        self.action_space = spaces.Discrete(len(checkpoint.config.action_meanings))
        if self._latent:
            units = self.predictor.preset.units
            self.observation_space = spaces.Box(-1.0, 1.0, (units,), np.float32)
        else:
            self.observation_space = spaces.Box(0, 255, shape, np.uint8)
        self.state: State | None = None
        space = batch_space(self.observation_space, num_games)
        self.observations = np.zeros(space.shape, space.dtype)
        self.steps = np.zeros(num_games, np.int64)

    def restart(self, games: np.ndarray, rng: np.random.Generator) -> None:
        """Starts new episodes from real frames of the data set.

        Args:
            games: bool (num_games,), which games start anew. The first call starts all of them.
            rng: draws the moments to start from.
        """
        if self.state is None:
            games = np.ones_like(games)
        if not games.any():
            return
        numbers = rng.integers(self.num_starts, size=int(games.sum()))
        starts = [
            self.dataset.read(*self._windows.position(number), self._warmup, self._windows.shape)
            for number in numbers
        ]
        frames, actions = (
            np.stack([start[key] for start in starts]) for key in ("frames", "actions")
        )
        state = self.predictor.observe(frames, actions)
        state = self._without_frames(State(*(np.array(part, np.float32) for part in state)))
        if self.state is None:
            self.state = State(
                *(np.zeros((len(games), *part.shape[1:]), np.float32) for part in state)
            )
        # Copies, because a step's arrays are read-only and one array may stand for two parts.
        self.state = State(*(np.array(part) for part in self.state))
        self.observations = np.array(self.observations)
        for part, value in zip(self.state, state, strict=True):
            part[games] = value
        self.observations[games] = state.h if self._latent else self._in_colour(frames[:, -1])
        self.steps[games] = 0

    def _in_colour(self, frames):
        """Frames uint8 (games, height, width, channels), from palette indices where need be."""
        return frames if frames.ndim == 4 else self._palette[frames]

    def _without_frames(self, state):
        """Drops the recent frames for the compression variant, because it never encodes again."""
        if self.predictor.variant == "paper":
            return state
        return state._replace(recent=np.zeros((len(state.h), 0), np.float32))

    def step(
        self, actions: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Imagines one step of every game.

        Args:
            actions: int (num_games,).
            rng: draws rewards and terminations with reward_type "sampled".

        Returns:
            rewards float64, terminations bool and truncations bool, (num_games,) each.

        Raises:
            InputError: there is no such action, or the games have not begun.
        """
        self.require_begun()
        actions = np.asarray(actions, np.int32)
        if actions.shape != self.steps.shape:
            raise InputError(
                f"expected an action for each of {len(self.steps)} games, received an array of "
                f"shape {actions.shape}"
            )
        if not ((actions >= 0) & (actions < self.action_space.n)).all():
            raise InputError(
                f"expected actions in 0..{self.action_space.n - 1}, received {actions.tolist()}"
            )
        predictions = self._imagination(self.state, actions[:, None])
        self.state = predictions["state"]
        if self._latent:
            self.observations = np.asarray(self.state.h)
        else:
            self.observations = np.rint(predictions["frames"][:, 0]).astype(np.uint8)
        self.steps += 1
        reward_probabilities = np.asarray(predictions["reward"][:, 0], np.float64)
        termination_probability = np.asarray(predictions["termination"][:, 0], np.float64)
        if self._sampled:
            limits = np.cumsum(reward_probabilities[:, :-1], axis=1)
            classes = (rng.random((len(limits), 1)) > limits).sum(axis=1)
            rewards = np.array(REWARD_CLASSES, np.float64)[classes]
            terminated = rng.random(len(limits)) < termination_probability
        else:
            rewards = reward_probabilities @ np.array(REWARD_CLASSES, np.float64)
            terminated = termination_probability > 0.5
        return rewards, terminated, self.steps >= self._max_episode_steps

    def require_begun(self) -> None:
        """Raises InputError before the first `restart`."""
        if self.state is None:
            raise InputError("expected reset() before all else, received none. Call it first.")

    def render(self, game: int) -> np.ndarray:
        """The current frame of a game, uint8 RGB (height, width, 3)."""
        self.require_begun()
        frame = self.observations[game]
        if self._latent:
            network = self.predictor.network
            output = self.state.h[game : game + 1, None]
            frame = np.rint(network.denormalise(network.decode(output)))[0, 0].astype(np.uint8)
        return frame if frame.shape[-1] == 3 else np.repeat(frame, 3, axis=-1)


class CompressedAtariEnv(gymnasium.Env):
    """One imagined game.

    Args:
        checkpoint: a `*_reward` stage's directory, of either variant; None with `pretrained`.
        dataset: the data set with the ten real frames before each episode; by default the
            checkpoint's test set.
        observation_type: "frame", uint8 (height, width, channels), or "latent", the LSTM's output
            for the current frame, float32 (2048,). The compression variant then decodes no frame.
        reward_type: "expected": the reward is P(+1) - P(-1), and the episode ends where that is
            more likely than not. "sampled": both are drawn from the predicted probabilities.
        max_episode_steps: steps after which an episode is truncated; None: no limit.
            `gymnasium.make` truncates after its own `max_episode_steps`, by default 500.
        render_mode: None or "rgb_array".
        pretrained: the game whose shipped weights are used in place of a checkpoint.
        variant: of the shipped weights, "paper" or "compression".

    Attributes:
        games: the `ImaginedGames`, here a single one.

    Raises:
        InputError: an argument is unknown, or the checkpoint or data set does not fit.
    """

    metadata: ClassVar = {"render_modes": ["rgb_array"], "render_fps": 15}

    def __init__(
        self,
        checkpoint: str | Path | None = None,
        dataset: str | Path | None = None,
        observation_type: str = "frame",
        reward_type: str = "expected",
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        pretrained: str | None = None,
        variant: str | None = None,
    ):
        checkpoint = checkpoint_or_pretrained(checkpoint, pretrained, variant)
        self.games = ImaginedGames(
            1, checkpoint, dataset, observation_type, reward_type, max_episode_steps
        )
        self.observation_space = self.games.observation_space
        self.action_space = self.games.action_space
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """Starts an episode; see gymnasium.Env."""
        super().reset(seed=seed)
        self.games.restart(np.array([True]), self.np_random)
        return self.games.observations[0].copy(), {}

    def step(self, action: int):
        """Imagines one step; see gymnasium.Env."""
        rewards, terminated, truncated = self.games.step([action], self.np_random)
        observation = self.games.observations[0].copy()
        return observation, float(rewards[0]), bool(terminated[0]), bool(truncated[0]), {}

    def render(self) -> np.ndarray | None:
        """The current frame, uint8 RGB (height, width, 3), in render mode "rgb_array"."""
        return self.games.render(0) if self.render_mode == "rgb_array" else None

    def get_state(self) -> EnvState:
        """Returns the present moment. `set_state` can go back to it any number of times."""
        games = self.games
        games.require_begun()
        state = State(*(np.array(part) for part in games.state))
        random = self.np_random.bit_generator.state
        return EnvState(state, games.observations.copy(), int(games.steps[0]), random)

    def set_state(self, state: EnvState) -> None:
        """Goes back to a moment that `get_state` returned."""
        games = self.games
        games.state = State(*(np.array(part) for part in state.predictor))
        games.observations = state.observation.copy()
        games.steps[0] = state.steps
        self.np_random.bit_generator.state = state.random


class CompressedAtariVectorEnv(VectorEnv):
    """Many imagined games, stepped as one batch. See CompressedAtariEnv for the arguments.

    Episodes are truncated after `max_episode_steps`, with `gymnasium.make_vec` too. A game that has
    ended starts anew in the next step (Gymnasium's NEXT_STEP). That step ignores its action, and
    its reward is 0.
    """

    metadata: ClassVar = {
        "render_modes": ["rgb_array"],
        "render_fps": 15,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self,
        checkpoint: str | Path | None = None,
        num_envs: int = 1,
        dataset: str | Path | None = None,
        observation_type: str = "frame",
        reward_type: str = "expected",
        max_episode_steps: int | None = MAX_EPISODE_STEPS,
        render_mode: str | None = None,
        pretrained: str | None = None,
        variant: str | None = None,
    ):
        checkpoint = checkpoint_or_pretrained(checkpoint, pretrained, variant)
        self.games = ImaginedGames(
            num_envs, checkpoint, dataset, observation_type, reward_type, max_episode_steps
        )
        self.num_envs = num_envs
        self.single_observation_space = self.games.observation_space
        self.single_action_space = self.games.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.render_mode = render_mode
        self._ended = np.zeros(num_envs, bool)

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """Starts an episode of every game; see gymnasium.vector.VectorEnv.

        ``options={"reset_mask": bool (num_envs,)}`` starts only the games of the mask.

        Raises:
            InputError: the mask has another type or shape.
        """
        super().reset(seed=seed)
        mask = np.asarray((options or {}).get("reset_mask", np.ones(self.num_envs, bool)))
        if mask.shape != (self.num_envs,) or mask.dtype != bool:
            raise InputError(
                f"expected reset_mask to be bool ({self.num_envs},), received {mask.dtype} "
                f"{mask.shape}"
            )
        self.games.restart(mask, self.np_random)
        self._ended[mask] = False
        return self.games.observations.copy(), {}

    def step(self, actions: np.ndarray):
        """Imagines one step of every game; see gymnasium.vector.VectorEnv."""
        rewards, terminated, truncated = self.games.step(actions, self.np_random)
        if self._ended.any():
            self.games.restart(self._ended, self.np_random)
            rewards[self._ended] = 0.0
            terminated[self._ended] = truncated[self._ended] = False
        self._ended = terminated | truncated
        return self.games.observations.copy(), rewards, terminated, truncated, {}

    def render(self) -> tuple[np.ndarray, ...] | None:
        """The current frames, uint8 RGB (height, width, 3) each, in render mode "rgb_array"."""
        if self.render_mode != "rgb_array":
            return None
        return tuple(self.games.render(game) for game in range(self.num_envs))


gymnasium.register(
    "CompressedAtari-v0",
    entry_point="utils.acting.gymnasium_env:CompressedAtariEnv",
    vector_entry_point="utils.acting.gymnasium_env:CompressedAtariVectorEnv",
    max_episode_steps=MAX_EPISODE_STEPS,
)
