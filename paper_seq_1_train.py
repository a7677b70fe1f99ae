"""Paper model, stage 1 of 4: the convolutions alone, then 10 one-step predictions."""

from utils.stages import Stage, main

STAGE = Stage(
    name="paper_seq_1",
    variant="paper",
    predict=1,
    restore=None,
    learning_rate=2e-5,
    max_steps=100,
    convolution_steps=15000,
)

if __name__ == "__main__":
    main(STAGE)
