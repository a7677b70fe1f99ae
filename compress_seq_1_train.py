"""Compression model, stage 1 of 4: the convolutions alone, then 10 one-step predictions."""

from utils.stages import Stage, main

STAGE = Stage(
    name="compress_seq_1",
    variant="compression",
    predict=1,
    restore=None,
    learning_rate=2e-5,
    max_steps=50,
    convolution_steps=18000,
)

if __name__ == "__main__":
    main(STAGE)
