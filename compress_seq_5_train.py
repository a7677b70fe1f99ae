"""Compression model, stage 3 of 4: 5 of 20 steps fed back, from compress_seq_3's weights."""

from utils.stages import Stage, main

STAGE = Stage(
    name="compress_seq_5",
    variant="compression",
    predict=5,
    restore="compress_seq_3",
    learning_rate=2e-5,
    max_steps=100,
    horizon=20,
)

if __name__ == "__main__":
    main(STAGE)
