"""Compression model, stage 4 of 4: 5 of 100 steps fed back, and the reward, from compress_seq_5."""

from utils.stages import Stage, main

STAGE = Stage(
    name="compress_seq_5_reward",
    variant="compression",
    predict=5,
    restore="compress_seq_5",
    learning_rate=2e-5,
    max_steps=200,
    termination_rate=500.0,
    horizon=100,
    reward_weight=0.02,
)

if __name__ == "__main__":
    main(STAGE)
