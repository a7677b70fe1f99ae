"""Records what an agent does in the real game, as a data set."""

from __future__ import annotations

import hashlib
from pathlib import Path

from systems.atari import FRAME_SKIP
from systems.errors import InputError, say
from systems.record import dataset_directory, record
from systems.seeds import episode_seed, generator
from utils.acting import agent_score
from utils.acting.agent_files import WEIGHTS, TrainedAgent

SIDE_BY_SIDE = 4  # games at once: as many episodes may be played more than are needed
NOBODY = "random"  # `record` wants a policy, which plays no step here


def record_agent(directory: Path, num_frames: int, seed: int, data_path: Path) -> Path:
    """Plays as an agent does, and records that unless it is there already.

    The agent's actions are found out first, and then played again by `systems.record.record`.

    Args:
        directory: of the agent.
        num_frames: steps of all episodes.
        seed: of the games and of the agent's draws.
        data_path: where all data sets lie.

    Returns:
        the data set's directory.

    Raises:
        InputError: the agent or its checkpoint cannot be used, its game is no Atari game, or the
            data set cannot be written.
    """
    agent = TrainedAgent(directory)
    config = agent.checkpoint.config
    if config.environment:
        raise InputError(
            f"expected the agent of an Atari game, received one of {config.game}, whose play this "
            "command cannot repeat"
        )
    if config.frame_skip != FRAME_SKIP:
        raise InputError(
            f"expected a model of steps of {FRAME_SKIP} emulated frames, as systems.record plays, "
            f"received one of {config.frame_skip}"
        )
    player = f"agent-{hashlib.sha256((directory / WEIGHTS).read_bytes()).hexdigest()[:8]}"
    game = config.real_game
    emulator = {name: getattr(game, name) for name in ("pooled_frames", "mode", "difficulty")}
    expected = dataset_directory(data_path, config.game, player, num_frames, seed, **emulator)
    if expected.is_dir():
        say(f"{expected} is there already, nothing to do")
        return expected
    actions = _actions(agent, num_frames, seed)
    recorded = record(
        config.game,
        NOBODY,
        num_frames,
        seed,
        data_path,
        known_actions=actions,
        player=player,
        **emulator,
    )
    say(f"recorded {recorded}")
    return recorded


def _actions(agent: TrainedAgent, num_frames: int, seed: int) -> list[list[int]]:
    """What the agent does in the recording's first episodes, of `num_frames` steps or more."""
    config, predictor = agent.checkpoint.config, agent.checkpoint.predictor(precision="auto")
    rng, taken, left = generator("agent", seed), [], num_frames
    while left > 0:
        numbers = range(len(taken), len(taken) + SIDE_BY_SIDE)
        games = agent_score.begun(config, [episode_seed("recording", seed, n) for n in numbers])
        _, actions = agent_score.agents_games(
            games, config, predictor, lambda outputs: agent.drawn_actions(outputs, rng), left
        )
        taken += actions
        left -= sum(map(len, actions))
    return taken
