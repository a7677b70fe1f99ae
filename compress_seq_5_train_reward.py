"""Compression model, stage 4 of 4: 100 outputs fed back, 5 decoded, and the reward."""

from utils.training.stage import Stage, main

STAGE = Stage(
    name="compress_seq_5_reward",
    variant="compression",
    feed_back=True,
    horizon=100,
    decoded=5,
    restore="compress_seq_5",
    learning_rate=2e-5,
    max_steps=200,
    termination_rate=500.0,
    reward_weight=0.02,
)

if __name__ == "__main__":
    main(STAGE)
