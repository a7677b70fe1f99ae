"""Measures what the players that record data sets earn in whole games, and how fast they decide."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from systems.arguments import Parser, add_json, add_num_workers, add_seed
from systems.errors import check_writable, exit_on_input_error, probability, say, whole_number
from systems.files import num_cores

GAMES = "freeway", "pong", "breakout", "space_invaders", "ms_pacman"


def play(game: str, policy: str, epsilon: float | None, seed: int, episode: int) -> dict:
    """Plays one whole game.

    Args:
        game: its name.
        policy: as `systems.policies.shares_of` takes it.
        epsilon: how often a player that looks ahead acts at random; None for its own.
        seed: of the play.
        episode: its number, which the play depends on, too.

    Returns:
        dict of return, steps, and the seconds of processor time that the decisions took.
    """
    from systems.atari import AtariGame
    from systems.policies import make_policy, policy_name
    from systems.seeds import episode_seed, generator

    played = AtariGame(game)
    played.reset(episode_seed("recording", seed, episode))
    name = policy_name(policy, epsilon)
    player = make_policy(name, played, generator("recording", seed, episode))
    earned, steps, begun = 0.0, 0, time.process_time()
    while not (played.terminated or played.truncated):
        earned += played.step(player.action())[1]
        steps += 1
    return {"return": earned, "steps": steps, "seconds": time.process_time() - begun}


def serve_games() -> None:
    """Runs in a worker process: plays the games that the parent asks for."""
    from systems.workers import parent

    with parent() as (connection, _):
        while True:
            connection.send(play(*connection.recv()))


def parser() -> Parser:
    """The command line."""
    command = "python -m benchmarks.players"
    parser = Parser(
        __doc__,
        prog=command,
        examples=[f"{command} --num_episodes 1 --json docs/results/players.json"],
    )
    add = parser.add_argument
    add("--atari_game", action="append", help="a game, may be given several times; five by default")
    add("--epsilon", type=probability, default=0.1, help="random actions of those that look ahead")
    add("--num_episodes", type=whole_number(1), default=3, help="whole games of each player")
    add_seed(add, "of the play", 4)
    add_num_workers(add, num_cores())
    add_json(add)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures by the command line's flags."""
    flags = parser().parse_args(arguments)
    with exit_on_input_error():
        from tqdm import tqdm

        from systems.atari import game_name
        from systems.files import write_json
        from systems.policies import LOOK_AHEAD, POLICIES
        from systems.provenance import made
        from systems.workers import answers

        games = [game_name(game) for game in flags.atari_game or GAMES]
        if flags.json:
            check_writable(flags.json)
        jobs = [
            (game, policy, flags.epsilon if policy in LOOK_AHEAD else None, flags.seed, episode)
            for policy in reversed(POLICIES)  # the slowest first, so that no worker is left alone
            for game in games
            for episode in range(flags.num_episodes)
        ]
        played = answers(flags.num_workers, jobs, "benchmarks.players", "serve_games")
        results = dict(tqdm(played, total=len(jobs), unit=" games"))
        figures = {
            game: {
                policy: _summary([results[job] for job in jobs if job[:2] == (game, policy)])
                for policy in POLICIES
            }
            for game in games
        }
        for game, players in figures.items():
            for policy, one in players.items():
                say(
                    f"{game:15s} {policy:11s} {one['return']:9.1f} ({one['least']:.0f} to "
                    f"{one['most']:.0f})  {one['decisions_per_second']:8.1f} decisions a second"
                )
        if flags.json:
            about = {"epsilon": flags.epsilon, "num_episodes": flags.num_episodes}
            write_json(flags.json, {"made": made(play=flags.seed), **about, "games": figures})


def _summary(games: list[dict]) -> dict:
    earned = [one["return"] for one in games]
    steps = [one["steps"] for one in games]
    return {
        "return": float(np.mean(earned)),
        "least": min(earned),
        "most": max(earned),
        "steps": float(np.mean(steps)),
        "decisions_per_second": sum(steps) / sum(one["seconds"] for one in games),
    }


if __name__ == "__main__":
    main()
