"""Records a data set: episodes of one game, played by one policy.

    python -m systems.record --atari_game=freeway --policy=persistent
    python -m systems.record --env=LunarLander-v3 --policy=persistent

A data set is a directory in the layout of Minari (https://minari.farama.org, HDF5 storage):

    <data_path>/<game>/<policy>-<num_frames>-seed<seed>-v2/data/
        main_data.hdf5      for each episode i, T steps long, a group "episode_<i>" with
                                observations  [T + 1, H, W] uint8 palette indices, or
                                              [T + 1, H, W, C] of an environment
                                actions       [T] int64 indices into the action meanings
                                rewards       [T] float32 points of the game's score
                                terminations  [T] bool, true where the game was over
                                truncations   [T] bool, true where the episode was cut off
        metadata.json       what Minari needs, how the episodes were played, and the palettes

The name also says what is not the game's default: random-pooled1-mode3-30000-seed1-v2.

An episode's attribute `no_ops` is the number of emulated frames of nothing, from 1 to 30, before
its first observation. It is drawn from `seed`, another attribute. Without it every episode would
start from the same state, and a test episode would show what training has seen. `no_ops` and the
actions together replay the episode.

`actions[t]`, chosen at `observations[t]`, earned `rewards[t]` and led to `observations[t + 1]`.
The directory appears under its name only when it is whole.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from tqdm import tqdm

from systems.arguments import (
    PLAYERS,
    Parser,
    add_data_path,
    add_game,
    add_num_workers,
    add_policy,
    add_seed,
)
from systems.atari import (
    MAX_POOLED_FRAMES,
    POOLED_FRAMES,
    USUAL_POOLED_FRAMES,
    AtariGame,
    default_pooled_frames,
    game_name,
)
from systems.episodes import play_episodes
from systems.errors import InputError, exit_on_input_error, probability, say, whole_number
from systems.files import num_cores
from systems.gymnasium_game import Environment, GymnasiumGame
from systems.palette import Colour, tables
from systems.policies import LOOK_AHEAD, POLICIES, looks_ahead, make_policy, policy_name
from systems.real_game import RealGame
from systems.write_dataset import EpisodesWriter, new_data_set

# One worker for each core, but many more than eight would wait for the one process that writes.
DEFAULT_NUM_WORKERS = min(num_cores(), 8)

# Of what is recorded by the same arguments. In version 1 episodes began without no-ops.
LAYOUT_VERSION = 2


def dataset_directory(
    data_path: str | Path,
    game: str | Environment,
    policy: str,
    num_frames: int,
    seed: int,
    pooled_frames: int | None = None,
    mode: int = 0,
    difficulty: int = 0,
) -> Path:
    """Returns where `record` puts a data set: `<data_path>/<name in Minari>/data`.

    Minari finds it by that name if the environment variable MINARI_DATASETS_PATH is `data_path`.
    """
    name = _minari_name(game, policy, num_frames, seed, pooled_frames, mode, difficulty)
    return Path(data_path, name, "data")


def _minari_name(
    game: str | Environment,
    policy: str,
    num_frames: int,
    seed: int,
    pooled_frames: int | None,
    mode: int,
    difficulty: int,
) -> str:
    if isinstance(game, Environment):
        name = game.label
    else:
        name = game_name(game)
        if pooled_frames not in (None, default_pooled_frames(game)):
            policy = f"{policy}-pooled{pooled_frames}"
        policy += f"-mode{mode}" if mode else ""
        policy += f"-difficulty{difficulty}" if difficulty else ""
    return f"{name}/{policy}-{num_frames}-seed{seed}-v{LAYOUT_VERSION}"


def record(
    game: str | Environment,
    policy: str,
    num_frames: int,
    seed: int,
    data_path: str | Path,
    num_workers: int = DEFAULT_NUM_WORKERS,
    progress: bool = True,
    overwrite: bool = False,
    epsilon: float | None = None,
    pooled_frames: int | None = None,
    mode: int = 0,
    difficulty: int = 0,
    known_actions: Sequence[Sequence[int]] = (),
    player: str | None = None,
) -> Path:
    """Records a data set unless it is there already.

    The same arguments give the same bytes, whatever the number of workers. If another process is
    recording the same data set, this one waits for it.

    Args:
        game: any name of an Atari game that `systems.atari.game_name` knows, or an environment.
        policy: who plays, as `systems.policies.shares_of` takes it.
        num_frames: the number of steps of all episodes, at least 1. The last episode is cut.
        seed: of every random choice, at least 0.
        data_path: where all data sets lie.
        num_workers: the number of processes that play, at least 1.
        progress: whether to show a progress bar on stderr.
        overwrite: whether to replace a data set that is there already.
        epsilon: how often a policy that looks ahead acts at random; None for its own.
        pooled_frames: emulated frames that a screen combines, from 1 to 8; None for as many as the
            game needs, see `systems.atari.default_pooled_frames`.
        mode, difficulty: of the Atari game; 0 is its own default.
        known_actions: what the policy does in the first episodes, where that is known. It need not
            be found out again, which takes most of the time where a policy looks ahead.
        player: who chose the known actions, if it was no policy: letters, digits and hyphens. The
            data set is named after it. Each episode ends where they end, so they have to be
            `num_frames` or more.

    Returns:
        The data set's directory: that of `dataset_directory`, by `player` or `policy_name`.

    Raises:
        InputError: an argument cannot be used, or the data set cannot be written.
        RuntimeError: a worker process died.
    """
    for name, value, minimum in (
        ("num_frames", num_frames, 1),
        ("num_workers", num_workers, 1),
        ("seed", seed, 0),
    ):
        if value < minimum:
            raise InputError(f"expected {name} to be at least {minimum}, received {value}")
    known = sum(map(len, known_actions))
    if player and known < num_frames:
        raise InputError(f"expected {num_frames} known actions of {player}, received {known}")
    in_environment = isinstance(game, Environment)
    if in_environment and looks_ahead(policy):
        raise InputError(
            f"expected --policy=random or persistent with --env, received {policy}, which looks "
            "ahead in the Atari emulator"
        )
    name = policy_name(policy, epsilon)
    if in_environment and (pooled_frames is not None or mode or difficulty):
        raise InputError(
            "expected --pooled_frames, --mode and --difficulty for the Atari emulator alone, "
            "received one with --env. Leave it out; environments have options (--env_kwargs)"
        )
    emulator = pooled_frames, mode, difficulty
    directory = dataset_directory(data_path, game, player or name, num_frames, seed, *emulator)
    if in_environment:
        real_game = RealGame(environment=game)
    else:
        real_game = RealGame(game, pooled_frames=pooled_frames, mode=mode, difficulty=difficulty)
    with new_data_set(directory, overwrite) as new:
        if new:
            dataset_id = _minari_name(game, player or name, num_frames, seed, *emulator)
            more = num_frames, seed, num_workers, progress, known_actions, player
            _play_and_write(new, dataset_id, real_game, policy, name, *more)
    return directory


def _play_and_write(
    directory: Path,
    dataset_id: str,
    real_game: RealGame,
    policy: str,
    name: str,
    num_frames: int,
    seed: int,
    num_workers: int,
    progress: bool,
    known_actions: Sequence[Sequence[int]],
    player: str | None,
) -> None:
    """Plays, and writes both files of a data set into `directory`, which does not exist yet."""
    played = real_game.begin()
    colours: list[Colour] = []
    with (
        tqdm(desc=played.name, total=num_frames, unit=" frames", disable=not progress) as bar,
        contextlib.closing(
            play_episodes(
                real_game,
                name,
                seed,
                num_frames,
                num_workers,
                on_progress=lambda count: bar.update(count - bar.n),
                known=known_actions,
                known_alone=player is not None,
            )
        ) as episodes,
        EpisodesWriter(directory, played.screen_shape, played.first_action) as writer,
    ):
        for episode in episodes:
            writer.write(episode)
            colours += episode.colours
        settings = {} if player else make_policy(name, played, np.random.default_rng(seed)).settings
        writer.finish(
            dataset_id,
            played.num_actions,
            packages=(played.package, "numpy", "h5py"),
            policy=player or policy,
            policy_settings=settings,
            seed=seed,
            **_about_atari(played, colours)
            if isinstance(played, AtariGame)
            else _about_environment(played),
        )


def _about_atari(game: AtariGame, colours: list[Colour]) -> dict:
    rgb, grey = tables(colours)
    return {
        "game": game.name,
        "frame_skip": game.frame_skip,
        "pooled_frames": game.pooled_frames,
        "repeat_action_probability": game.repeat_action_probability,
        "max_episode_frames": game.max_episode_frames,
        "mode": game.mode,
        "difficulty": game.difficulty,
        "action_meanings": game.action_meanings,
        "palette": rgb,
        "grey_palette": grey,
    }


def _about_environment(game: GymnasiumGame) -> dict:
    return {
        "game": game.name,
        "action_meanings": game.action_meanings,
        "environment": asdict(game.environment),
        "frames_from": game.frames_from,
        "env_spec": game.spec,
    }


def _json_object(text: str) -> dict:
    """The argparse type of --env_kwargs."""
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"expected a JSON object, received {text!r}")
    return value


def _game_of(flags: argparse.Namespace) -> str | Environment:
    """What the command line asks to record."""
    if "env" in flags:
        key = getattr(flags, "observation_key", None)
        return Environment(flags.env, getattr(flags, "env_kwargs", {}), key)
    for name in ("env_kwargs", "observation_key"):
        if name in flags:
            raise InputError(f"expected --env beside --{name}, received --{name} alone")
    return flags.atari_game


def parser() -> Parser:
    """The command line."""
    command = "python -m systems.record"
    parser = Parser(
        "Plays a game and records frames, actions and rewards as a data set.",
        prog=command,
        notes=[PLAYERS],
        examples=[
            f"{command} --atari_game=freeway --policy=persistent",
            f"{command} --atari_game=pong --policy=lookahead --epsilon=0.1 --seed=2",
            f"{command} --env=LunarLander-v3 --policy=persistent",
            f"{command} --list_games",
        ],
    )
    add = parser.add_argument_group("what is played").add_argument
    add_game(add)
    add(
        "--env",
        metavar="ID",
        default=argparse.SUPPRESS,
        help="record this Gymnasium environment instead, such as LunarLander-v3 or "
        "minigrid:MiniGrid-Empty-8x8-v0 (a package to import, and the id)",
    )
    add(
        "--env_kwargs",
        metavar="JSON",
        type=_json_object,
        default=argparse.SUPPRESS,
        help="""options of the environment, such as '{"continuous": false}'; """
        """'{"render_mode": "rgb_array"}' takes what it renders, not what it observes""",
    )
    add(
        "--observation_key",
        metavar="KEY",
        default=argparse.SUPPRESS,
        help="entry of the environment's Dict observations that is the image",
    )
    add("--num_frames", type=whole_number(1), default=30_000, help="steps of all episodes")
    add_policy(add)
    epsilons = (f"{name} {POLICIES[name].EPSILON}" for name in LOOK_AHEAD)
    add(
        "--epsilon",
        type=probability,
        default=argparse.SUPPRESS,  # because other policies have none
        help=f"how often it acts at random (default: {', '.join(epsilons)})",
    )
    add_seed(add, "of every random choice; training, validation and test sets have 1, 2, 3", 1)
    more = (f"{game} {number}" for game, number in POOLED_FRAMES.items())
    add(
        "--pooled_frames",
        type=whole_number(1, MAX_POOLED_FRAMES),
        default=argparse.SUPPRESS,  # because it is the game's
        help="emulated frames that a screen combines, the brightest of each pixel (default: "
        f"{USUAL_POOLED_FRAMES}, but more in games where these miss objects: {', '.join(more)})",
    )
    what = "of the Atari game, which changes its rules; 0 is the game's own"
    add("--mode", type=whole_number(0), default=0, help=what)
    add("--difficulty", type=whole_number(0), default=0, help=what)
    add = parser.add_argument_group("where and how").add_argument
    add_data_path(add)
    add_num_workers(add, DEFAULT_NUM_WORKERS)
    add("--overwrite", action="store_true", help="replace the data set if it is there already")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command `python -m systems.record`."""
    flags = parser().parse_args(arguments)
    epsilon = getattr(flags, "epsilon", None)
    emulator = getattr(flags, "pooled_frames", None), flags.mode, flags.difficulty
    with exit_on_input_error():
        name = policy_name(flags.policy, epsilon)
        game = _game_of(flags)
        existed = dataset_directory(
            flags.data_path, game, name, flags.num_frames, flags.seed, *emulator
        ).is_dir()
        try:
            directory = record(
                game,
                flags.policy,
                flags.num_frames,
                flags.seed,
                flags.data_path,
                flags.num_workers,
                overwrite=flags.overwrite,
                epsilon=epsilon,
                pooled_frames=emulator[0],
                mode=flags.mode,
                difficulty=flags.difficulty,
            )
        except KeyboardInterrupt:
            print("interrupted; nothing was kept", file=sys.stderr)
            raise SystemExit(130) from None
    if existed and not flags.overwrite:
        say(f"{directory} is there already, nothing to do; --overwrite records it again")
    else:
        megabytes = sum(file.stat().st_size for file in directory.iterdir()) / 1e6
        say(f"recorded {directory}, {megabytes:.1f} MB")


if __name__ == "__main__":
    main()
