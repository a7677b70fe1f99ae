"""How an agent is trained. Nothing here imports Keras, because command lines read the defaults."""

from __future__ import annotations

from dataclasses import dataclass

# What an agent may learn in: the model's imagination, or the real game, to compare with.
SIMULATORS = ("compressed", "emulator")


@dataclass(frozen=True)
class PPOConfig:
    """How an agent is trained."""

    steps: int = 3_000_000  # imagined steps in all
    num_envs: int = 1024  # games that are imagined at once
    # So few that a good share of all steps are taken in states that a real frame has corrected, as
    # all are when the agent plays the real game.
    horizon: int = 16  # steps of each game
    seed: int = 0
    learning_rate: float = 3e-4
    # With 0.99 agents gave points away for rewards that they hoped for in states unlike any real
    # one.
    discount: float = 0.98
    trace: float = 0.95  # lambda of the advantages
    entropy_weight: float = 0.01
    passes: int = 2  # over the steps of an update
    batch_size: int = 2048
    simulator: str = "compressed"  # one of SIMULATORS, which plays the games
    num_starts: int = 4096  # real moments that games start from

    @property
    def num_updates(self) -> int:
        """How many updates there are, at least one."""
        return max(1, self.steps // self.steps_per_update)

    @property
    def steps_per_update(self) -> int:
        """Imagined steps of an update."""
        return self.num_envs * self.horizon
