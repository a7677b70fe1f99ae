"""Paper model, stage 4 of 4: 5 predicted frames fed back, and the reward."""

from utils.training.stage import Stage, main

STAGE = Stage(
    name="paper_seq_5_reward",
    variant="paper",
    feed_back=True,
    horizon=5,
    decoded=5,
    restore="paper_seq_5",
    learning_rate=5e-6,
    max_steps=300,
    termination_rate=100.0,
    reward_weight=0.02,
)

if __name__ == "__main__":
    main(STAGE)
