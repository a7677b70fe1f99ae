"""Paper model, stage 1 of 4: one-step predictions of 10 frames after 10, from scratch."""

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
