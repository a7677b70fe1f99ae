"""Any Gymnasium environment with numbered actions and images, played as `AtariGame` is.

The frames are the environment's observations if they are an image, and else what it renders.
Gymnasium (https://gymnasium.farama.org) is imported only when an environment is made.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import h5py
import numpy as np

from systems.atari import game_name
from systems.errors import InputError, one_line
from systems.images import in_channels, resize
from systems.observations import Observations, understand
from systems.spaces import AmbiguousImage, SpaceError, named, parsed


@dataclass(frozen=True)
class Environment:
    """How a Gymnasium environment is made.

    Attributes:
        id: as `gymnasium.make` takes it, such as "LunarLander-v3". A package that has to be
            imported first stands before a colon: "minigrid:MiniGrid-Empty-8x8-v0".
        kwargs: what else `gymnasium.make` receives. A render_mode asks for rendered frames.
        observation_key: which entry of Dict observations is the image; None: the only one.
    """

    id: str
    kwargs: dict[str, Any] = field(default_factory=dict)
    observation_key: str | None = None

    @property
    def label(self) -> str:
        """A directory's name, which tells it from the same environment with other options."""
        options = {**self.kwargs, "key": self.observation_key}
        options = {name: value for name, value in options.items() if value is not None}
        full = "-".join([self.id.rpartition(":")[2], *(f"{k}_{v}" for k, v in options.items())])
        plain = re.sub(r"[^\w-]", "-", full)
        if (options and plain != full) or len(plain) > 100:
            told = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()
            plain = f"{plain[:80]}-{told[:8]}"
        return plain


class GymnasiumGame:
    """A Gymnasium environment, played one action at a time.

    Args:
        environment: how it is made.

    Attributes:
        name: what its data sets and checkpoints are called: the id without a package; the game's
            name if it is an Atari game.
        environment: as given.
        num_actions, action_meanings: as those of `AtariGame`. Actions without names are numbers.
        first_action: the number that the environment gives action 0.
        spec: the environment's specification, JSON text.
        screen_shape: (height, width, channels) of a frame.
        frames_from: "observations", with the entry if they are a Dict, or "rendering".
        terminated, truncated: whether the episode is over, and whether it was cut off.

    Raises:
        InputError: there is no such environment, it cannot be made or begun here, its actions are
            not numbered, or it shows no image.
    """

    palette = None  # frames hold their own colours
    package = "gymnasium"

    def __init__(self, environment: Environment) -> None:
        import gymnasium

        self.environment = environment
        self._env = self._make(environment.kwargs)
        actions = self._env.action_space
        if type(actions).__name__ != "Discrete":
            raise InputError(
                f"expected an environment whose actions are numbered, Discrete(n), received "
                f"{environment.id} with {actions}. Some take an option for it, such as "
                """--env_kwargs='{"continuous": false}'."""
            )
        self.num_actions, self.first_action = int(actions.n), int(actions.start)
        self.action_meanings = self._action_meanings()
        self.name = name_of(self._env.spec.id)
        self.spec = self._spec()
        self.screen_shape = None
        try:
            self._observations = self._image_in_observations()
            if self._observations is None and self._env.render_mode is None:
                self._env.close()
                self._env = self._make({**environment.kwargs, "render_mode": "rgb_array"})
            self.screen_shape = self.reset().shape
        # Many environments import what they draw with only when they begin or draw.
        except (gymnasium.error.Error, ImportError, OSError) as error:
            raise InputError(
                f"expected an environment that can begin and be drawn here, received "
                f"{environment.id} with {json.dumps(environment.kwargs)}: {one_line(error)} "
                "Install what it needs."
            ) from error
        self.frames_from = self._observations.path if self._observations else "rendering"

    def _action_meanings(self):
        """The actions' names; their numbers if they have none, or a wrapper chooses among them."""
        named = getattr(self._env.unwrapped, "get_action_meanings", None)
        names = tuple(named()) if named else ()
        if len(names) == self.num_actions and all(isinstance(name, str) for name in names):
            return names
        return tuple(str(number) for number in range(self.num_actions))

    def _make(self, kwargs):
        # pygame, which many environments draw with, greets on stdout otherwise.
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        import gymnasium

        try:
            return gymnasium.make(self.environment.id, disable_env_checker=True, **kwargs)
        except (
            gymnasium.error.Error,
            ImportError,
            TypeError,
            ValueError,
            AssertionError,
            OSError,  # a file that it reads, and that an option may name
        ) as error:
            raise InputError(
                f"expected an environment that gymnasium.make can make, received "
                f"{self.environment.id} with {json.dumps(kwargs)}: {one_line(error)} Install its "
                "package; name it before a colon if it has to be imported, such as "
                "minigrid:MiniGrid-Empty-8x8-v0."
            ) from error

    def _spec(self):
        """The environment's specification, JSON text."""
        spec = copy.copy(self._env.spec)
        # What was registered by its class is named as text, as JSON needs it.
        for name in ("entry_point", "vector_entry_point"):
            point = getattr(spec, name)
            if callable(point):
                called = getattr(point, "__qualname__", type(point).__qualname__)
                setattr(spec, name, f"{point.__module__}:{called}")
        try:
            return spec.to_json()
        except (TypeError, ValueError) as error:
            raise InputError(
                f"expected an environment that can be described as JSON, received "
                f"{self.environment.id}: {one_line(error)} Register it without objects among its "
                "options."
            ) from error

    def _image_in_observations(self) -> Observations | None:
        """How frames are made of the observations; None if they hold no image, or are unwanted."""
        key = self.environment.observation_key
        if self._env.render_mode is not None and key is None:
            return None
        observation, _ = self._env.reset(seed=0)
        about = parsed({"observation_space": _space(self._env.observation_space)})
        about["env_spec"] = json.loads(self.spec)
        # As Minari would write it, so that there is one place that tells images from numbers.
        with h5py.File("memory", "w", driver="core", backing_store=False) as file:
            try:
                _write_observation(file, "observations", observation)
                return understand(file, about, key)
            except (AmbiguousImage, KeyError) as error:
                raise InputError(str(error)) from error
            except (SpaceError, TypeError) as error:
                if key is not None:
                    raise InputError(str(error)) from error
                return None

    def reset(self, seed: int = 0) -> np.ndarray:
        """Starts an episode and returns its first frame, uint8 `screen_shape`.

        Args:
            seed: of the environment's random numbers in this episode.
        """
        observation, _ = self._env.reset(seed=seed)
        self.terminated = self.truncated = False
        self._screen = self._frame(observation)
        return self._screen

    def step(self, action: int) -> tuple[np.ndarray, float, bool]:
        """Plays one action, from 0, and returns frame, reward and termination.

        Raises:
            ValueError: there is no such action.
            RuntimeError: the episode has ended.
            InputError: the reward is no finite number, or the frame is of another size or range.
        """
        if not 0 <= action < self.num_actions:
            raise ValueError(f"expected an action in 0..{self.num_actions - 1}, received {action}")
        if self.terminated or self.truncated:
            raise RuntimeError("the episode has ended; call reset() before the next step()")
        observation, reward, terminated, truncated, _ = self._env.step(action + self.first_action)
        if not np.isfinite(reward):
            raise InputError(
                f"expected finite rewards, received {reward} of {self.environment.id}. Mend the "
                "environment or wrap it."
            )
        self.terminated, self.truncated = bool(terminated), bool(truncated)
        self._screen = self._frame(observation)
        return self._screen, float(reward), self.terminated

    def check_actions(self, meanings: Sequence[str]) -> None:
        """Checks that a checkpoint's actions are as many as the environment's.

        Raises:
            InputError: they are more or fewer.
        """
        if len(meanings) != self.num_actions:
            raise InputError(
                f"expected the {self.num_actions} actions of {self.environment.id}, received a "
                f"checkpoint with {len(meanings)}: {', '.join(meanings)}. Choose another."
            )

    def observation(self, shape: tuple[int, int, int]) -> np.ndarray:
        """Returns the current frame fitted to a preset's (height, width, channels), uint8."""
        return resize(in_channels(self._screen, shape[-1]), shape)

    def _frame(self, observation):
        if self._observations is None:
            frame = self._env.render()
            if not isinstance(frame, np.ndarray) or frame.ndim != 3 or frame.dtype != np.uint8:
                raise InputError(
                    f"expected an environment that observes an image or renders one "
                    f"(rgb_array), received {self.environment.id}, whose observations are "
                    f"{named(_space(self._env.observation_space))} and which renders "
                    f"{type(frame).__name__}. Choose another."
                )
            frame = frame[..., :3]
        else:
            for name in self._observations.path.split("/")[1:]:
                observation = observation[name]
            values = np.asarray(observation)
            try:
                frame = self._observations.frames(values[(None, *self._observations.part)])[0]
            except ValueError as error:
                raise InputError(
                    f"expected observations as at the start, received others of "
                    f"{self.environment.id}: {one_line(error)} Give its observation space bounds, "
                    "or let it observe uint8."
                ) from error
        if self.screen_shape not in (None, frame.shape):
            raise InputError(
                f"expected frames of {self.screen_shape}, as at the start, received "
                f"{frame.shape} of {self.environment.id}. Choose an environment of one size."
            )
        return np.ascontiguousarray(frame)


def name_of(env_id: str) -> str:
    """Returns what an environment's data sets are called.

    It is the game's name if `game_name` knows one, and else the id, with hyphens for what no file's
    name should hold. So an Atari game whose observations are RAM is called by its id.
    """
    try:
        return game_name(env_id)
    except InputError:
        return re.sub(r"[^\w.-]", "-", env_id)


def _space(space: Any) -> dict:
    """A Gymnasium space as Minari writes it, without the limits of each number of a Box."""
    about: dict[str, Any] = {"type": type(space).__name__}
    if about["type"] == "Dict":
        about["subspaces"] = {name: _space(part) for name, part in space.spaces.items()}
    elif about["type"] == "Tuple":
        about["subspaces"] = [_space(part) for part in space.spaces]
    elif about["type"] == "Box":
        about |= {"dtype": str(space.dtype), "shape": list(space.shape)}
        about |= {"low": float(space.low.min()), "high": float(space.high.max())}
    elif about["type"] == "Discrete":
        about |= {"n": int(space.n), "start": int(space.start)}
    return about


def _write_observation(group: h5py.Group, name: str, value: Any) -> None:
    if isinstance(value, dict):
        for key, part in value.items():
            _write_observation(group.require_group(name), key, part)
    elif isinstance(value, tuple):
        for number, part in enumerate(value):
            _write_observation(group.require_group(name), f"_index_{number}", part)
    elif isinstance(value, str):
        group[name] = [value]
    else:
        group[name] = np.asarray(value)[None]
