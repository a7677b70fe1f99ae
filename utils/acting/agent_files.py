"""A trained agent on the disk, beside the checkpoint in whose imagination it has learned.

`checkpoints/<game>/<model>/agent_<stage>/` holds `agent.weights.h5`, `agent.json`, `logs/` for
TensorBoard and, while it is trained, `resume/`. Every file is written whole under another name and
then renamed.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from model.actor_critic import ActorCritic
from model.presets import PRESETS
from systems.errors import InputError, one_line
from systems.files import refusals_explained, write_json
from utils.acting.ppo import PPO
from utils.acting.ppo_config import PPOConfig
from utils.checkpoint import Checkpoint, digest, resume_from, write_weights
from utils.config import RESUME, from_json

FILE, WEIGHTS = "agent.json", "agent.weights.h5"
STATE = "state.json"
VERSION = 1  # of the files' layout


@dataclass(frozen=True)
class AgentConfig:
    """What an agent is and how it came about."""

    checkpoint: str  # directory of the checkpoint that it has learned in
    checkpoint_weights: str | None  # what `utils.checkpoint.digest` said of its weights
    dataset: str  # directory of the real play that its games started from
    training: PPOConfig
    made: dict[str, Any]
    imagined_return: float | None = None  # of the last games
    steps_per_second: float | None = None  # imagined, learning included
    version: int = VERSION


def agent_directory(checkpoint: Checkpoint, simulator: str = "compressed") -> Path:
    """Where a checkpoint's agent lies unless the user says otherwise.

    Args:
        checkpoint: the agent's.
        simulator: in which it learns, one of `ppo_config.SIMULATORS`.
    """
    ending = "" if simulator == "compressed" else f"_{simulator}"
    directory = checkpoint.directory
    if directory.name in ("", ".."):
        directory = Path(os.path.abspath(directory))
    return directory.with_name(f"agent_{directory.name}{ending}")


def network(checkpoint: Checkpoint, entropy_weight: float = 0.0) -> ActorCritic:
    """The agent's network, untrained."""
    config = checkpoint.config
    return ActorCritic(PRESETS[config.model].units, len(config.action_meanings), entropy_weight)


def _read(content: dict[str, Any]) -> AgentConfig:
    """What JSON says of an agent.

    Raises:
        ValueError, TypeError, AttributeError: it says something else, or is of a newer version.
    """
    config: AgentConfig = from_json(AgentConfig, content)
    if config.version != VERSION:
        raise ValueError(
            f"it has version {config.version}, and this version of the project reads {VERSION}."
        )
    return config


class TrainedAgent:
    """A trained agent.

    Args:
        directory: of it.

    Attributes:
        config: what `agent.json` says.
        checkpoint: in whose imagination it has learned.

    Raises:
        InputError: there is no agent, its files are damaged, or its checkpoint has changed.
    """

    def __init__(self, directory: str | Path):
        path = Path(directory) / FILE
        try:
            self.config = _read(json.loads(path.read_text()))
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise InputError(
                f"expected the directory of a trained agent, but reading {path} failed: "
                f"{one_line(error)} Train one: python train_agent.py --pretrained freeway"
            ) from error
        self.checkpoint = Checkpoint(self.config.checkpoint)
        if digest(self.config.checkpoint) != self.config.checkpoint_weights:
            raise InputError(
                f"expected the weights in {self.config.checkpoint} in which the agent has learned, "
                "received others. Train the agent again: python train_agent.py --overwrite"
            )
        self._network = network(self.checkpoint)
        try:
            resume_from(self._network, Path(directory) / WEIGHTS)
        except InputError as error:
            raise InputError(
                f"expected the weights of a trained agent, but {Path(directory) / WEIGHTS} is "
                "missing, damaged or another network's. Train it again: python train_agent.py "
                "--overwrite"
            ) from error

    def actions(self, outputs: np.ndarray) -> np.ndarray:
        """The likeliest action of each game, int (games,), by its output, (games, units)."""
        return self._network.predict_on_batch(outputs)["log_policy"].argmax(axis=1)

    def drawn_actions(self, outputs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """An action of each game, int (games,), drawn by the policy's probabilities."""
        policy = np.exp(self._network.predict_on_batch(outputs)["log_policy"].astype(np.float64))
        limits = np.cumsum(policy, axis=1)[:, :-1]
        return (rng.random((len(policy), 1)) >= limits).sum(axis=1)


def write_agent(directory: Path, agent: ActorCritic, config: AgentConfig) -> None:
    """Writes a trained agent. The JSON comes last, and says that it is whole."""
    trained = network(Checkpoint(config.checkpoint))  # without an optimizer
    trained.set_weights(agent.get_weights())
    write_weights(directory / WEIGHTS, trained)
    write_json(directory / FILE, dataclasses.asdict(config))
    shutil.rmtree(directory / RESUME, ignore_errors=True)


def clear(directory: Path) -> None:
    """Removes a trained or interrupted agent's files, and first the one that says it is whole."""
    (directory / FILE).unlink(missing_ok=True)
    for old in (RESUME, "logs"):
        shutil.rmtree(directory / old, ignore_errors=True)


def save(
    directory: Path, ppo: PPO, config: AgentConfig, updates: int, recent: list[dict[str, float]]
) -> None:
    """Writes what a resumed training needs. The JSON comes last, and names the whole weights.

    Args:
        directory: of the agent.
        ppo: the training.
        config: how it began.
        updates: how many are done.
        recent: figures of the last of them.
    """
    place = directory / RESUME
    with refusals_explained(place):
        place.mkdir(exist_ok=True)
    path = place / f"update_{updates}.weights.h5"
    write_weights(path, ppo.agent)
    random = ppo.rng.bit_generator.state
    content = {"updates": updates, "random": random, "recent": recent}
    content["config"] = dataclasses.asdict(config)
    write_json(place / STATE, content)
    for old in place.glob("*.weights.h5"):
        if old != path:
            old.unlink()


def restore(directory: Path, ppo: PPO, config: AgentConfig) -> tuple[int, list[dict[str, float]]]:
    """Goes on with an interrupted training.

    Returns:
        the updates that are done, 0 if there is none, and the figures of the last of them.

    Raises:
        InputError: it began in another way, or its files are damaged.
    """
    path = directory / RESUME / STATE
    if not path.exists():
        return 0, []
    try:
        content = json.loads(path.read_text())
        updates, recent = content["updates"], content.get("recent", [])
        began = _read(content["config"])
        ppo.rng.bit_generator.state = content["random"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"expected the training that was interrupted in {directory}, but reading {path} "
            f"failed: {one_line(error)} Start over with --overwrite."
        ) from error
    require_alike(config, began, directory)
    resume_from(ppo.agent, path.parent / f"update_{updates}.weights.h5")
    return updates, recent


def require_alike(ours: AgentConfig, theirs: AgentConfig, directory: Path) -> None:
    """Raises InputError unless an agent is asked for as it was trained, or as that began."""
    for name in ("checkpoint_weights", "dataset"):
        same = str if name == "checkpoint_weights" else os.path.abspath
        if same(getattr(ours, name)) != same(getattr(theirs, name)):
            raise InputError(
                f"expected the {name.replace('_', ' ')} {getattr(theirs, name)}, with which the "
                f"agent in {directory} began, received {getattr(ours, name)}. Give another "
                "--agent, or --overwrite."
            )
    for entry in dataclasses.fields(PPOConfig):
        mine, other = (getattr(one.training, entry.name) for one in (ours, theirs))
        if mine != other:
            raise InputError(
                f"expected --{entry.name}={other}, with which the agent in {directory} began, "
                f"received {mine}. Give another --agent, or --overwrite."
            )
