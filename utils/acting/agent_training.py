"""Trains an agent, usually in a checkpoint's imagination: what `train_agent.py` does."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from tqdm import tqdm

from systems.errors import InputError, say
from systems.provenance import made
from utils.acting import agent_files
from utils.acting.agent_files import AgentConfig
from utils.acting.dream import Dream, real_starts
from utils.acting.emulated import EmulatedGames
from utils.acting.ppo import PPO
from utils.acting.ppo_config import PPOConfig
from utils.checkpoint import Checkpoint, digest, training_in
from utils.watching.tensorboard import Logs

UPDATES_PER_SAVE = 20
UPDATES_PER_MEAN = 20  # over which the imagined return and the speed are told


@dataclass(frozen=True)
class AgentFlags:
    """What the command line says; see `train_agent.py --help`."""

    checkpoint: Path
    training: PPOConfig
    agent: Path | None = None  # where it is written; None: beside the checkpoint
    dataset: Path | None = None  # where games start from; None: the checkpoint's training set
    overwrite: bool = False


def train(flags: AgentFlags) -> None:
    """Trains an agent, or goes on with it. A trained one is left as it is.

    Raises:
        InputError: the checkpoint, the data or the flags cannot be used.
    """
    checkpoint = Checkpoint(flags.checkpoint)
    checkpoint.require_rewards()
    if checkpoint.config.variant != "compression":
        raise InputError(
            f"expected a checkpoint of the compression variant, whose LSTM goes on by itself, "
            f"received {flags.checkpoint}, of {checkpoint.config.variant}. Leave --variant out, or "
            "train that variant."
        )
    directory = flags.agent or agent_files.agent_directory(checkpoint, flags.training.simulator)
    dataset = checkpoint.test_data(flags.dataset or _usual_play(checkpoint))
    config = AgentConfig(
        str(checkpoint.directory),
        digest(checkpoint.directory),
        str(dataset.directory),
        flags.training,
        made(agent=flags.training.seed, checkpoint=checkpoint.config.training.seed),
    )
    with training_in(directory, "--agent"):
        if not flags.overwrite and (directory / agent_files.FILE).exists():
            agent = agent_files.TrainedAgent(directory)
            agent_files.require_alike(config, agent.config, directory)
            say(f"{directory} is trained; --overwrite trains it again")
            return
        place = "the emulator" if flags.training.simulator == "emulator" else checkpoint.directory
        say(f"{checkpoint.config.game}: an agent learns in {place}")
        _train(directory, checkpoint, dataset, config, flags.overwrite)
    named = shlex.quote(str(directory))
    say(f"wrote {directory}\nnext: python evaluate_agent.py --agent {named}")


def _usual_play(checkpoint):
    """The training set if it is here; else the test set, as with shipped weights."""
    training = Path(checkpoint.config.data["training"])
    return training if training.exists() else None


def _train(directory, checkpoint, dataset, config, overwrite):
    training = config.training
    keras.utils.set_random_seed(training.seed)
    predictor = checkpoint.predictor(precision="auto")
    starts = real_starts(predictor, dataset, training.num_starts, training.seed)
    if training.simulator == "emulator":
        games = EmulatedGames(predictor, dataset, starts)
    else:
        games = Dream(predictor, starts)
    agent = agent_files.network(checkpoint, training.entropy_weight)
    agent.adapt(starts.state.h)
    ppo = PPO(games, agent, config.training)
    if overwrite:  # not before all is there with which it can be trained again
        agent_files.clear(directory)
    done, known = agent_files.restore(directory, ppo, config)
    if done:
        say(f"going on after update {done}")
    logs, recent = Logs(directory / "logs"), deque(known, maxlen=UPDATES_PER_MEAN)
    for number, figures in _updates(ppo, training, done):
        recent.append(figures)
        steps = number * training.steps_per_update
        logs.scalars(steps, {f"agent/{key}": value for key, value in figures.items()})
        if number % UPDATES_PER_SAVE == 0 and number < training.num_updates:
            logs.flush()
            agent_files.save(directory, ppo, config, number, list(recent))
    logs.close()
    told = ("imagined_return", "steps_per_second")
    means = {key: float(np.mean([figures[key] for figures in recent])) for key in told}
    agent_files.write_agent(directory, agent, dataclasses.replace(config, **means))
    say(
        f"imagined return of the last games, {training.horizon} steps each: "
        f"{means['imagined_return']:.3f}"
    )


def _updates(ppo, training, done) -> Iterator[tuple[int, dict[str, float]]]:
    """Updates with a progress bar; yields how many are done, and each one's figures."""
    with tqdm(
        desc="agent",
        total=training.num_updates * training.steps_per_update,
        initial=done * training.steps_per_update,
        unit="step",
        file=sys.stderr,
    ) as bar:
        for number in range(done + 1, training.num_updates + 1):
            figures = ppo.update()
            if not np.isfinite(figures["loss"]):
                raise InputError(
                    f"expected a finite loss, received {figures['loss']} in update {number}. Start "
                    "over with --overwrite and a smaller --learning_rate."
                )
            bar.set_postfix_str(f"imagined return {figures['imagined_return']:.3f}", refresh=False)
            bar.update(training.steps_per_update)
            yield number, figures
