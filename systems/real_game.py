"""The real game behind a data set or checkpoint: the Atari emulator or a Gymnasium environment."""

from __future__ import annotations

from dataclasses import dataclass

from systems.atari import FRAME_SKIP, AtariGame
from systems.gymnasium_game import Environment, GymnasiumGame


@dataclass(frozen=True)
class RealGame:
    """Which game it is and how it is set, so that any process can play it.

    Attributes:
        name: any name of an Atari game; not used with an environment.
        frame_skip: emulated frames for which the Atari emulator holds an action.
        pooled_frames: emulated frames that its screens combine; None: as the game needs.
        environment: the Gymnasium environment; None: the Atari emulator plays.
        mode, difficulty: of the Atari game; 0 is its own default.
    """

    name: str = ""
    frame_skip: int = FRAME_SKIP
    pooled_frames: int | None = None
    environment: Environment | None = None
    mode: int = 0
    difficulty: int = 0

    def begin(self) -> AtariGame | GymnasiumGame:
        """Returns the game at the start of an episode.

        Raises:
            InputError: it cannot be played here.
        """
        if self.environment:
            return GymnasiumGame(self.environment)
        return AtariGame(
            self.name,
            frame_skip=self.frame_skip,
            pooled_frames=self.pooled_frames,
            mode=self.mode,
            difficulty=self.difficulty,
        )
