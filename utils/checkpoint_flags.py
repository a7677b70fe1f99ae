"""How a script's command line names a checkpoint: by its directory, or as one that is shipped.

Nothing here imports NumPy, so that --help answers at once.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from systems.arguments import add_checkpoint
from systems.errors import InputError

DIRECTORY = Path(__file__).parents[1] / "pretrained"  # of the shipped weights
DEFAULT_GAME, DEFAULT_VARIANT = "freeway", "paper"
VARIANTS = ("paper", "compression")


def shipped_names(directory: Path = DIRECTORY) -> list[str]:
    """The shipped weights, such as `freeway (paper)`."""
    names = (path.stem.rpartition("_") for path in sorted(directory.glob("*.npz")))
    return [f"{game} ({variant})" for game, _, variant in names]


def add_checkpoint_arguments(
    group: argparse._ArgumentGroup,
    checkpoint_help: str,
    several: bool = True,
    required: bool = True,
    default_variant: str = DEFAULT_VARIANT,
) -> None:
    """Adds --checkpoint, --pretrained and --variant to a script's command line.

    Args:
        group: of the command line.
        checkpoint_help: what --help says of --checkpoint.
        several: whether the script takes more than one.
        required: whether there has to be one. If not, `DEFAULT_GAME` is taken.
        default_variant: what --help says is taken without --variant.
    """
    one_of = group.add_mutually_exclusive_group(required=required)
    add_checkpoint(one_of.add_argument, checkpoint_help, several, required=False)
    default = "" if required else f" ({DEFAULT_GAME}, where no checkpoint is named)"
    one_of.add_argument(
        "--pretrained",
        metavar="GAME",
        help=f"use shipped weights: {', '.join(shipped_names()) or 'there are none'}{default}",
    )
    twice = "; may be given twice" if several else ""
    group.add_argument(
        "--variant",
        choices=VARIANTS,
        action="append" if several else "store",
        help=f"of the shipped weights ({default_variant}){twice}",
    )


def checkpoint_directories(args: argparse.Namespace) -> list[Path]:
    """The directories that the flags of `add_checkpoint_arguments` name.

    Shipped weights are computed where they are first used.

    Raises:
        InputError: the flags do not fit each other, or there are no such weights.
    """
    given, variants = args.checkpoint, args.variant
    if given:
        if variants:
            raise InputError(
                "expected --variant beside --pretrained, received it beside --checkpoint, which "
                "is of one variant already. Leave it out."
            )
        return given if isinstance(given, list) else [given]
    from utils.pretrained import pretrained_checkpoint  # it imports NumPy

    variants = [variants] if isinstance(variants, str) else variants or [DEFAULT_VARIANT]
    game = args.pretrained or DEFAULT_GAME
    return [pretrained_checkpoint(game, variant) for variant in dict.fromkeys(variants)]
