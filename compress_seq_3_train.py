"""Compression model, stage 2 of 4: 3 of 10 steps fed back, from compress_seq_1's weights."""

from utils.stages import Stage, main

STAGE = Stage(
    name="compress_seq_3",
    variant="compression",
    predict=3,
    restore="compress_seq_1",
    learning_rate=2e-5,
    max_steps=50,
    horizon=10,
)

if __name__ == "__main__":
    main(STAGE)
