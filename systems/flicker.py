"""Measures which games draw objects in only some frames, and how many frames a screen must combine.

The console draws few moving objects at once. Games with more of them draw each in turn, in one
frame of two, three, four or even six: the objects flicker. The command plays every game for one
player and looks at each emulated frame. A pixel flickers at the end of a step if

- its values repeat with a period of 2 to 6 frames, and have done so for three periods and at least
  12 frames, which those of moving objects do not,
- it has two values, and the brighter one never stays for two frames. Blinking objects stay longer
  and changing colours have more values; both are seen in any case,
- the brighter one is not the commonest of its row, which would be the background.

Eight such pixels that touch are an object: fewer are the edge of something that moves. A screen
misses an object that is in none of the frames that it combines. A game's screens combine the
fewest frames, at least two, with which at most 8 % of the steps miss an object: more frames smear
what moves in every step. Under two frames Ms. Pac-Man misses something
in 5 to 6 %, and the next game, Othello, in 11 to 16 %, by the seed of the play. Periods of 7 and 8
frames were looked at, and all were animations.

The brightest of several frames never shows a flickering object that is darker than the background.
`dark` counts the steps with one.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from systems.arguments import Parser, add_json, add_num_workers, add_seed
from systems.atari import (
    FRAME_SKIP,
    POOLED_FRAMES,
    TWO_PLAYER_GAMES,
    USUAL_POOLED_FRAMES,
    AtariGame,
    game_name,
    game_names,
)
from systems.errors import check_writable, exit_on_input_error, say, user_path, whole_number
from systems.files import write_json, write_whole
from systems.policies import PersistentPolicy
from systems.provenance import made
from systems.record import DEFAULT_NUM_WORKERS
from systems.workers import answers, parent

PERIODS = range(2, 7)  # frames
REPEATS = 3  # periods in which a pixel repeats its values
LEAST_FRAMES = 12  # in which it repeats them
OBJECT_PIXELS = 8  # touching pixels that are an object
ALLOWED = 0.08  # of the steps may miss an object, because more frames smear what moves

_WINDOW = max(PERIODS) * REPEATS

# Games in the picture, and the step at which they are shown.
_PICTURED = {"pacman": 270, "wizard_of_wor": 290}


def flickering(frames: np.ndarray, grey: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Finds the pixels that flicker at the end of some emulated frames.

    Args:
        frames: uint8 [18, H, W], palette indices of emulated frames, the newest first.
        grey: uint8 [256], the grey palette.

    Returns:
        Period: uint8 [H, W], in frames; 0 where a pixel does not flicker.
        Age: uint8 [H, W], how many frames ago it was drawn last; 0 is the newest frame.
        Dark: bool [H, W], whether what flickers is darker than what is seen in between.
    """
    shape = frames.shape[1:]
    period, age, dark = (np.zeros(shape, kind) for kind in (np.uint8, np.uint8, bool))
    rows, columns = np.nonzero((frames[1 : max(PERIODS)] != frames[0]).any(axis=0))
    values = frames[:, rows, columns]
    commonest = np.array([np.bincount(row, minlength=256).argmax() for row in frames[0]])
    background = grey[commonest[rows]]
    left = np.ones(len(rows), bool)  # of which no period has been found
    for length in PERIODS:
        count = max(length * REPEATS, LEAST_FRAMES)
        repeats = left & (values[: count - length] == values[length:count]).all(axis=0)
        left &= ~repeats
        found = np.flatnonzero(repeats)
        cycle = grey[values[:length, found]]
        high, low = cycle.max(axis=0), cycle.min(axis=0)
        drawn, missing = cycle == high, cycle == low
        two_valued = (drawn | missing).all(axis=0)
        bright = two_valued & _never_stays(drawn) & (high != background[found])
        darker = two_valued & _never_stays(missing) & (high == background[found])
        here = found[bright]
        period[rows[here], columns[here]] = length
        age[rows[here], columns[here]] = drawn[:, bright].argmax(axis=0)
        dark[rows[found[darker]], columns[found[darker]]] = True
    return period, age, dark


def _never_stays(shown):
    """Whether no two frames in a row show it. The first follows the last."""
    return ~(shown & np.roll(shown, 1, axis=0)).any(axis=0)


def _num_objects(pixels):
    """How many objects there are; of pixels, bool [H, W]."""
    _, _, statistics, _ = cv2.connectedComponentsWithStats(pixels.astype(np.uint8), connectivity=8)
    return int((statistics[1:, cv2.CC_STAT_AREA] >= OBJECT_PIXELS).sum())


def played(game: AtariGame, seed: int, num_steps: int) -> Iterator[np.ndarray]:
    """Plays a game and yields the last 18 emulated frames after each step, the newest first.

    Args:
        game: with a frame skip of 1 and without pooling.
        seed: of the policy, "persistent".
        num_steps: of four frames. The first few of each episode yield nothing.
    """
    policy = PersistentPolicy(game, np.random.default_rng(seed))
    frames = []
    for _ in range(num_steps):
        if game.terminated or game.truncated:
            game.reset()
            frames.clear()
        action = policy.action()
        for _ in range(FRAME_SKIP):
            if not (game.terminated or game.truncated):
                frames.insert(0, game.step(action)[0])
        del frames[_WINDOW:]
        if len(frames) == _WINDOW:
            yield np.stack(frames)


def scan(name: str, seed: int, num_steps: int) -> dict:
    """Plays a game and returns its figures.

    Args:
        name: of the game.
        seed: of the policy.
        num_steps: how long it is played.

    Returns:
        pooled_frames: how many frames its screens must combine.
        missing: the share of the steps that miss an object, by the number of frames combined.
        objects_missed: how many a step misses on average, likewise.
        flickering_pixels: how many there are on average, by their period in frames.
        dark: the share of the steps with a flickering object that is darker than the background.
    """
    game = AtariGame(name, frame_skip=1, pooled_frames=1)
    steps = dark = 0
    combined = range(1, max(PERIODS) + 1)
    missing, objects = (dict.fromkeys(combined, 0) for _ in range(2))
    pixels = np.zeros(max(PERIODS) + 1, int)
    for frames in played(game, seed, num_steps):
        period, age, darker = flickering(frames, game.palette.grey)
        steps += 1
        dark += _num_objects(darker) > 0
        pixels += np.bincount(period.ravel(), minlength=len(pixels))
        for number in combined:
            count = _num_objects((period > 0) & (age >= number))
            if not count:
                break
            missing[number] += 1
            objects[number] += count
    missing, objects = (
        {number: round(count / steps, 4) for number, count in counts.items()}
        for counts in (missing, objects)
    )
    return {
        "pooled_frames": needed(missing),
        "missing": missing,
        "objects_missed": objects,
        "flickering_pixels": {length: round(pixels[length] / steps, 2) for length in PERIODS},
        "dark": round(dark / steps, 4),
    }


def needed(missing: dict[int, float]) -> int:
    """Returns how many frames a screen must combine; `missing` is that of `scan`."""
    return min(
        number
        for number, share in missing.items()
        if number >= USUAL_POOLED_FRAMES and share <= ALLOWED
    )


def scan_all(games: Sequence[str], seed: int, num_steps: int, num_workers: int) -> dict[str, dict]:
    """Returns the figures of games, by name; see `scan`. Each is played by a worker process."""
    jobs = [(game, seed, num_steps) for game in games]
    scanned = answers(num_workers, jobs, "systems.flicker", "serve_scans")
    with contextlib.closing(scanned):
        figures = {name: one for (name, *_), one in tqdm(scanned, total=len(jobs), unit=" games")}
    return {game: figures[game] for game in games}


def serve_scans() -> None:
    """Runs in a worker process: scans the games that the parent asks for."""
    with parent() as (connection, _):
        while True:
            connection.send(scan(*connection.recv()))


def draw(path: Path) -> None:
    """Writes a picture of games with the usual pooling, left, and their own, right."""
    rows = []
    for name, steps in _PICTURED.items():
        screens = []
        for pooled_frames in (USUAL_POOLED_FRAMES, POOLED_FRAMES[name]):
            game = AtariGame(name, pooled_frames=pooled_frames)
            policy = PersistentPolicy(game, np.random.default_rng(0))
            for _ in range(steps):
                game.step(policy.action())
            bgr = game.screen_rgb()[:, :, ::-1]
            bgr = cv2.resize(bgr, None, fx=4, fy=2, interpolation=cv2.INTER_NEAREST)
            bgr = cv2.copyMakeBorder(bgr, 30, 6, 3, 3, cv2.BORDER_CONSTANT, value=(255,) * 3)
            caption = f"{name}, {pooled_frames} frames a screen"
            cv2.putText(bgr, caption, (6, 21), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (0, 0, 0), 1)
            screens.append(bgr)
        rows.append(np.concatenate(screens, axis=1))
    png = cv2.imencode(".png", np.concatenate(rows))[1].tobytes()
    write_whole(path, lambda partial: partial.write_bytes(png))


def parser() -> Parser:
    """The command line."""
    command = "python -m systems.flicker"
    parser = Parser(
        __doc__,
        prog=command,
        examples=[
            f"{command} --json=docs/results/flicker.json --picture=docs/pooling.png",
            f"{command} --atari_game=pacman --atari_game=wizard_of_wor --num_steps=200",
        ],
    )
    add = parser.add_argument
    add(
        "--atari_game",
        action="append",
        help="a game to scan, may be given several times; all for one player if it is not given",
    )
    add("--num_steps", type=whole_number(10), default=1000, help="steps, of four frames each")
    add_seed(add, "of the play")
    add_num_workers(add, DEFAULT_NUM_WORKERS)
    add_json(add)
    add(
        "--picture",
        type=user_path,
        metavar="FILE",
        help="PNG of two games with the usual pooling and their own",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command `python -m systems.flicker`."""
    flags = parser().parse_args(arguments)
    with exit_on_input_error():
        games = sorted({game_name(game) for game in flags.atari_game or []})
        games = games or game_names()
        for path in filter(None, (flags.json, flags.picture)):
            check_writable(path)
        figures = scan_all(games, flags.seed, flags.num_steps, flags.num_workers)
        for line in _table(figures):
            say(line)
        if flags.json:
            write_json(flags.json, _content(figures, flags))
        if flags.picture:
            draw(flags.picture)


def _content(figures, flags):
    """What the JSON file says."""
    return {
        "made": made(play=flags.seed),
        "num_steps": flags.num_steps,
        "policy": "persistent",
        "frame_skip": FRAME_SKIP,
        "allowed": ALLOWED,
        "ale-py": importlib.metadata.version("ale-py"),
        "two_player_games_left_out": sorted(TWO_PLAYER_GAMES),
        "games": figures,
    }


def _table(figures) -> Iterator[str]:
    """The games in which the usual pooling misses something, the most first."""
    usual = USUAL_POOLED_FRAMES
    yield f"steps that miss an object, with 1 to {max(PERIODS)} frames combined"
    order = sorted(figures, key=lambda name: -figures[name]["missing"][usual])
    shown = [name for name in order if figures[name]["missing"][usual] >= 0.01]
    for name in shown:
        shares = "".join(f"{100 * share:6.1f} %" for share in figures[name]["missing"].values())
        yield f"{name:18s}{shares}   pooled frames: {figures[name]['pooled_frames']}"
    yield f"all others: {len(figures) - len(shown)}, less than 1 % with {usual}"


if __name__ == "__main__":
    main()
