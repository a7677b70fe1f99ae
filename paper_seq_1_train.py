"""Paper model, stage 1 of 4: one-step predictions of 10 frames after 10, from scratch."""

from utils.stages import Stage, main

STAGE = Stage(
    name="paper_seq_1",
    variant="paper",
    predict=1,
    restore=None,
    learning_rate=1e-3,
    max_steps=200,
)

if __name__ == "__main__":
    main(STAGE)
