"""Plays the real game by planning, and measures how much of it the compressed model has kept.

At every step the planner tries sequences of actions in a simulator and takes the first action of
the best. The same planner runs with

  compressed  the checkpoint's own imagination, kept in step with the game frame by frame
  emulator    the cloned emulator: the score that a perfect model would give
  none        no simulator: actions at random, held for as long

Give --simulator several times to compare; with all three it reports the share of the perfect
model's gain over random play that the compressed model keeps.
"""

import argparse
import os
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from tqdm import tqdm

from systems.atari import AtariGame
from systems.errors import InputError, exit_on_input_error, whole_number
from systems.planning import METHODS, CompressedSimulator, EmulatorSimulator, Planner
from systems.policies import PersistentPolicy
from utils import checkpoints, video

SIMULATORS = ("compressed", "emulator", "none")
BOOTSTRAPS = 10_000


def main() -> None:
    """Plays by the command line's flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--checkpoint", required=True, type=Path, metavar="DIR", help="a *_reward stage's directory"
    )
    add(
        "--simulator",
        action="append",
        choices=SIMULATORS,
        help="where to look ahead (compressed); may be given several times",
    )
    add("--method", choices=METHODS, default="cem", help="random shooting or cross-entropy (cem)")
    add("--horizon", type=whole_number(1), default=20, help="steps looked ahead (20)")
    add("--num_rollouts", type=whole_number(1), default=128, help="sequences a decision (128)")
    add("--episodes", type=whole_number(1), default=10, help="(10)")
    add("--max_steps", type=whole_number(1), default=1000, help="of each episode (1000)")
    add("--seed", type=whole_number(0), default=0, help="of all that is drawn (0)")
    add("--output", type=Path, metavar="JSON", help="write all figures")
    add("--video", metavar="MP4", help="show the first episode beside what was imagined")
    args = parser.parse_args()
    with exit_on_input_error():
        compare(args)


def compare(args: argparse.Namespace) -> None:
    """Plays with each simulator and prints what they earned."""
    if args.output and not args.output.parent.is_dir():
        raise InputError(f"expected a directory to write {args.output} to, there is none")
    config = checkpoints.read_config(args.checkpoint)
    simulators = list(dict.fromkeys(args.simulator or ["compressed"]))
    if args.video:
        video.check_output(args.video)
        if "compressed" not in simulators:
            raise InputError("expected --simulator=compressed with --video: it shows what that saw")
    if "compressed" in simulators and not config["training"]["reward_weight"]:
        raise InputError(
            f"expected the checkpoint of a stage that predicts rewards, such as "
            f"compress_seq_5_reward. Received {args.checkpoint}, of {config['stage']}."
        )
    results = {
        "checkpoint": str(args.checkpoint),
        "game": config["game"],
        **{
            key: getattr(args, key)
            for key in ("method", "horizon", "num_rollouts", "episodes", "max_steps", "seed")
        },
        "simulators": {},
    }
    for name in simulators:
        results["simulators"][name] = found = _play(name, args, config)
        low, high = found["interval"]
        print(
            f"{config['game']}, {name}: mean return {found['mean_return']:.2f} "
            f"[{low:.2f}, {high:.2f}], {found['decisions_per_second']:.1f} decisions/s",
            flush=True,
        )
    if len(simulators) == len(SIMULATORS):
        kept = share_kept(*(results["simulators"][name]["returns"] for name in SIMULATORS))
        results["share_kept"] = kept
        if kept is None:
            print("share kept: undefined, a perfect model earns no more than random play")
        else:
            low, high = kept["interval"]
            print(f"share kept: {kept['share']:.2f} [{low:.2f}, {high:.2f}]")
    if args.output:
        checkpoints.write_json(args.output, results)


def _play(name, args, config):
    """Plays all episodes with one simulator; returns, mean, interval, decisions a second."""
    started = time.perf_counter()
    if name == "compressed":
        predictor = checkpoints.load_predictor(args.checkpoint, precision="bfloat16")
        simulator = CompressedSimulator(predictor)
        shape = predictor.preset.frame_shape
        plays = []
        for episode in tqdm(range(args.episodes), desc=name, unit="episode"):
            if episode == 1:
                # The first one has compiled everything.
                started = time.perf_counter()
            film = _Film(simulator, shape) if args.video and episode == 0 else None
            plays.append(play_episode(args, config, episode, lambda _: simulator, shape, film))
            if film:
                video.write_video(args.video, film.joined())
        timed = plays[1:] or plays
    else:
        # ALE keeps Python's lock while it emulates, so each episode has a process. A fork would
        # carry TensorFlow's threads along.
        context = get_context("spawn")
        with ProcessPoolExecutor(os.cpu_count(), context) as pool:
            jobs = [
                pool.submit(_play_in_process, name, args, config, episode)
                for episode in range(args.episodes)
            ]
            plays = [job.result() for job in tqdm(jobs, desc=name, unit="episode")]
        timed = plays
    seconds = time.perf_counter() - started
    returns = [earned for earned, _ in plays]
    return {
        "returns": returns,
        "mean_return": float(np.mean(returns)),
        "interval": _interval(np.array(returns)[_draws(len(returns))].mean(axis=1)),
        "steps": [steps for _, steps in plays],
        "decisions_per_second": sum(steps for _, steps in timed) / seconds,
    }


def _play_in_process(name, args, config, episode):
    find = EmulatorSimulator if name == "emulator" else None
    return play_episode(args, config, episode, find, None)


def play_episode(args, config, episode, simulator_of, shape, film=None) -> tuple[float, int]:
    """Plays one episode of the real game.

    The first ten frames, which the model has to see, are played alike with every simulator.

    Args:
        args: the command line's flags.
        config: the checkpoint's.
        episode: its number; with the seed it decides all that is drawn.
        simulator_of: returns the `Simulator` of a game; None to play at random.
        shape: of the frames that the simulator observes; None if it needs none.
        film: who watches.

    Returns:
        The points earned and the number of decisions.
    """
    rng = np.random.default_rng([args.seed, episode])
    game = AtariGame(config["game"], seed=0)
    persistent = PersistentPolicy(game, rng)

    def look():
        return None if shape is None else game.observation(shape)

    frames, actions, earned, steps = [look()], [], 0.0, 0
    for _ in range(config["warmup"] - 1):
        actions.append(persistent.action())
        earned += game.step(actions[-1])[1]
        frames.append(look())
    if simulator_of:
        simulator = simulator_of(game)
        planner = Planner(game.num_actions, args.horizon, args.num_rollouts, args.method, rng)
        if shape is not None:
            simulator.begin(np.stack(frames), np.array(actions))
    while steps < args.max_steps and not (game.terminated or game.truncated):
        plan = planner.plan(simulator) if simulator_of else [persistent.action()]
        if film:
            film.watch(game, plan)
        _, reward, _ = game.step(int(plan[0]))
        earned += reward
        steps += 1
        if simulator_of and shape is not None:
            simulator.observe(look(), int(plan[0]))
    return earned, steps


class _Film:
    """The real game beside what the planner imagines: the next step, and the end of its plan."""

    STEPS = 300

    def __init__(self, simulator, shape):
        self._simulator, self._shape = simulator, shape
        self._panels = {"game": [], "next step": [], "end of the plan": []}
        self._captions = []

    def watch(self, game, plan):
        if len(self._captions) == self.STEPS:
            return
        imagined = video.to_uint8_rgb(self._simulator.frames(plan))
        now = video.to_uint8_rgb(game.observation(self._shape))
        for name, frame in zip(self._panels, (now, imagined[0], imagined[-1]), strict=True):
            self._panels[name].append(frame)
        self._captions.append(
            f"step {len(self._captions) + 1}  {game.action_meanings[int(plan[0])]}"
        )

    def joined(self):
        panels = {name: np.stack(frames) for name, frames in self._panels.items()}
        return video.side_by_side(panels, self._captions, 3)


def share_kept(compressed: list, emulator: list, none: list) -> dict | None:
    """(compressed - random) / (emulator - random) of mean returns, with a 95 % interval.

    None where the perfect model earns no more than random play.
    """
    parts = [np.array(part, np.float64) for part in (compressed, emulator, none)]

    def share(c, e, n):
        return (c - n) / (e - n)

    means = [part.mean() for part in parts]
    if means[1] <= means[2]:
        return None
    drawn = [part[_draws(len(part), i)].mean(axis=1) for i, part in enumerate(parts)]
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = share(*drawn)
    return {"share": float(share(*means)), "interval": _interval(shares[np.isfinite(shares)])}


def _draws(count, seed=0):
    return np.random.default_rng(seed).integers(count, size=(BOOTSTRAPS, count))


def _interval(values):
    low, high = np.quantile(values, [0.025, 0.975])
    return [float(low), float(high)]


if __name__ == "__main__":
    main()
