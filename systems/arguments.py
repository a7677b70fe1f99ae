"""What all command lines share: their parser, and the flags that several of them have.

One thing has one name and one help text in all of them. Nothing slow is imported before a command
line is parsed, so that --help answers at once.
"""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from systems.errors import InputError, say, user_path, whole_number
from systems.version import version

MAX_FPS = 60  # of the Atari 2600, and what a video may have at most

# What --help says of each player in `systems.policies.POLICIES`.
PLAYERS = """\
who plays (--policy):
  random      draws every action anew, as in 2016. Freeway's chicken never crosses the road
  persistent  holds each action for 20 steps on average: for Freeway, where moving on is enough
  lookahead   searches 13 steps ahead in the emulator, and acts at random in 3 steps of 10:
              middling play of any game; 40 steps a second and core
  skilled     searches 50 steps ahead, and acts at random in 1 step of 10: for games that take
              skill, such as Pong and Breakout; 25 steps a second and core
  Several take turns within each episode, by shares of its steps: --policy=random:0.2,skilled:0.8"""

TRAINED = "checkpoints/freeway/lstm_84x84x1"  # of the examples' checkpoints
AGENT = "checkpoints/pretrained/freeway/lstm_84x84x1/agent_compress_pretrained"  # of the examples


class _Help(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Leaves descriptions as they are written, and names the defaults of flags that have one."""

    def _get_help_string(self, action):
        if action.default is None or action.default is False:
            return action.help
        return super()._get_help_string(action)


class _Answer(argparse.Action):
    """A flag that prints a text and ends the process. The text is made when it is asked for."""

    def __init__(self, option_strings, dest, text, help):
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help=help)
        self._text = text

    def __call__(self, parser, namespace, values, option_string=None):
        say(self._text())
        parser.exit()


class Parser(argparse.ArgumentParser):
    """A command line. Flags may be written with hyphens, but not be cut short.

    Args:
        description: what the command does, shown as it is written.
        examples: commands that --help shows, one a string.
        notes: what else --help explains below the flags.
        prog: the command's name; None: the script's.
    """

    def __init__(
        self,
        description: str | None,
        examples: Sequence[str],
        notes: Sequence[str] = (),
        prog: str | None = None,
    ):
        shown = "\n".join(["examples:", *(f"  {example}" for example in examples)])
        super().__init__(
            prog=prog,
            description=description,
            epilog="\n\n".join([*notes, shown]),
            formatter_class=_Help,
            allow_abbrev=False,
        )
        self.examples = tuple(examples)
        self.add_argument(
            "--version", action=_Answer, text=version, help="print the version of this project"
        )

    def parse_known_args(self, args=None, namespace=None):
        """As argparse's own, which `parse_args` calls; refuses flags that it does not know."""
        args = [*(sys.argv[1:] if args is None else args)]
        flags = args[: args.index("--")] if "--" in args else args
        wants_help = not {"-h", "--help"}.isdisjoint(flags)
        for i, given in enumerate(flags):
            # Argparse takes for a flag what begins like one. Numbers do not, nor does a text with
            # a space in it.
            if not re.match(r"--?[A-Za-z]", given) or " " in given.partition("=")[0]:
                continue
            name, equals, value = given.partition("=")
            spelled = f"--{name[2:].replace('-', '_')}" if name.startswith("--") else name
            if spelled in self._option_string_actions:
                args[i] = spelled + equals + value
            elif not wants_help:
                self.error(f"unknown flag {name}{self._similar(spelled)}")
        return super().parse_known_args(args, namespace)

    def _similar(self, name):
        """What a mistyped flag may have meant."""
        names = [known[2:] for known in self._option_string_actions if known.startswith("--")]
        given = name.lstrip("-")
        begun = [known for known in names if known.startswith(given)]
        similar = begun or difflib.get_close_matches(given, names, cutoff=0.7)
        choices = " or ".join(f"--{known}" for known in similar)
        return f"; did you mean {choices}?" if similar else "; see --help"


def add_game(add: Callable[..., Any]) -> None:
    """Adds --atari_game, and --list_games.

    Args:
        add: `add_argument` of a parser or of a group, here and below.
    """
    add("--atari_game", default="ms_pacman", help="as ale-py names it: ms_pacman, ms_pacman.bin")
    add("--list_games", action=_Answer, text=_games, help="print the games that there are")


def _games():
    from systems.atari import game_names

    return "\n".join(game_names())


def add_policy(add: Callable[..., Any]) -> None:
    """Adds --policy. The command line's notes have to hold `PLAYERS`."""
    what = "who plays while recording, or several with shares, see below"
    add("--policy", default="random", type=_policy, help=what)


def _policy(text: str) -> str:
    """The argparse type of --policy."""
    from systems.policies import shares_of

    try:
        shares_of(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def add_data_path(add: Callable[..., Any]) -> None:
    """Adds --data_path."""
    add("--data_path", type=user_path, default=Path("data"), help="directory of all data sets")


def add_num_workers(add: Callable[..., Any], default: int) -> None:
    """Adds --num_workers."""
    add(
        "--num_workers",
        type=whole_number(1),
        default=default,
        help="processes that play; the result does not depend on it",
    )


def add_checkpoint(
    add: Callable[..., Any], what: str, several: bool = True, required: bool = True
) -> None:
    """Adds --checkpoint.

    Args:
        what: what the help says of it.
        several: whether it may be given several times, so that it is a list.
        required: whether it has to be given.
    """
    _add_path(add, "--checkpoint", "DIR", what, several, required)


def _add_path(add, name, metavar, what, several, required):
    """Adds a flag that takes a path, once or several times."""
    kind = "append" if several else "store"
    add(name, required=required, action=kind, type=user_path, metavar=metavar, help=what)


def add_dataset(add: Callable[..., Any], what: str, required: bool = False) -> None:
    """Adds --dataset, a data set on the disk."""
    add("--dataset", required=required, type=user_path, metavar="DIR", help=what)


def add_agent(add: Callable[..., Any]) -> None:
    """Adds --agent, a trained agent."""
    what = "the agent's directory, as train_agent.py names it"
    add("--agent", required=True, type=user_path, metavar="DIR", help=what)


def add_json(add: Callable[..., Any], what: str = "write all figures to this file") -> None:
    """Adds --json, the file that figures are written to."""
    add("--json", type=user_path, metavar="FILE", help=what)


def add_video(
    add: Callable[..., Any], what: str, several: bool = False, required: bool = False
) -> None:
    """Adds --video, the file that a video is written to.

    Args:
        what: what the help says of it.
        several: whether it may be given several times, so that it is a list.
        required: whether it has to be given.
    """
    _add_path(add, "--video", "FILE", what, several, required)


def add_seed(add: Callable[..., Any], what: str, default: int = 0) -> None:
    """Adds --seed, up to what all random generators take."""
    add("--seed", type=whole_number(0, 2**32 - 1), default=default, help=what)


def add_fps(add: Callable[..., Any], default: int, what: str) -> None:
    """Adds --fps, steps shown a second."""
    add("--fps", type=whole_number(1, MAX_FPS), default=default, help=f"{what}, at most {MAX_FPS}")
