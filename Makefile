# make test: lint and all tests. make test-fast: lint and the quick ones. make demo: data, training,
# video, error table in 10 to 20 minutes. All make their own virtual environment first.

PYTHON ?= python3
BIN = .venv/bin
GAME = freeway
MODEL = lstm_84x84x1
DEMO = demo/checkpoints/$(GAME)/$(MODEL)
DEMO_FLAGS = --atari_game=$(GAME) --model=$(MODEL) --policy=persistent \
	--data_path=demo/data --train_dir=demo/checkpoints

RESULTS = $(addprefix results-,freeway pong ms_pacman space_invaders)
POLICY = $(if $(filter freeway,$*),persistent,lookahead)
STAGES = seq_1_train seq_3_train seq_5_train seq_5_train_reward
TRAINED = results/checkpoints/$*/$(MODEL)

SHIPPED = $(addprefix pretrained-,freeway pong ms_pacman space_invaders breakout)

ON_JAX = $(addprefix tests/test_,networks.py pretraining.py predictor.py optimizer.py fast_imagination.py)

.PHONY: test test-fast demo results $(RESULTS) pretrained $(SHIPPED) clean

.venv/installed: requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -r requirements.txt
	touch $@

.venv/installed-dev: .venv/installed requirements-dev.txt
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	touch $@

test: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -q -n auto --dist worksteal
	JAX_DISABLE_MOST_OPTIMIZATIONS=1 KERAS_BACKEND=jax $(BIN)/python -m pytest -q -n auto --dist worksteal $(ON_JAX)

# For whoever edits: what takes less than a second or two each, in a minute and a half at most.
test-fast: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -q -n auto --dist worksteal -m "not slow"

demo: .venv/installed
	$(BIN)/python -m systems.record --atari_game=$(GAME) --policy=persistent --num_frames=30000 --seed=1 --data_path=demo/data
	$(BIN)/python paper_seq_1_train.py $(DEMO_FLAGS) --pretraining_steps=2700 --max_steps=20
	$(BIN)/python paper_seq_3_train.py $(DEMO_FLAGS) --max_steps=20
	$(BIN)/python paper_seq_5_train.py $(DEMO_FLAGS) --max_steps=20
	$(BIN)/python paper_seq_5_train_reward.py $(DEMO_FLAGS) --max_steps=100
	$(BIN)/python generate_video.py --checkpoint $(DEMO)/paper_seq_5_reward --output demo/$(GAME).mp4
	$(BIN)/python generate_video.py --checkpoint $(DEMO)/paper_seq_5_reward --output demo/$(GAME).gif

# What docs/results.md shows: some two hours a game on two cores. `make results-freeway` makes one game's.
results: $(RESULTS)
	$(BIN)/python -m benchmarks.results docs/results

$(RESULTS): results-%: .venv/installed
	set -e; mkdir -p docs/results; for variant in compress paper; do \
		for stage in $(STAGES); do \
			$(BIN)/python $${variant}_$$stage.py --atari_game=$* --model=$(MODEL) --policy=$(POLICY) \
				--data_path=results/data --train_dir=results/checkpoints; \
		done; \
		$(BIN)/python evaluate.py --checkpoint $(TRAINED)/$${variant}_seq_5_reward \
			--output docs/results/$*_$$variant.json --plot docs/results/$*_$$variant.png; \
		$(BIN)/python generate_video.py --checkpoint $(TRAINED)/$${variant}_seq_5_reward \
			--num_frames=30 --seed=1 --output docs/results/$*_$$variant.gif; \
	done
	$(BIN)/python generate_video.py --checkpoint $(TRAINED)/paper_seq_5_reward \
		--checkpoint $(TRAINED)/compress_seq_5_reward --num_frames=24 --seed=1 --output docs/results/$*.gif

# The weights that are shipped: some hour and a half a game. `make pretrained-freeway` makes one game's.
pretrained: $(SHIPPED)

$(SHIPPED): pretrained-%: .venv/installed
	set -e; for variant in paper compress; do \
		$(BIN)/python $${variant}_seq_1_train.py --atari_game=$* --model=$(MODEL) --policy=$(POLICY) \
			--data_path=results/data --train_dir=results/checkpoints; \
		$(BIN)/python -m utils.training.ship $(TRAINED)/$${variant}_seq_1; \
	done

clean:
	rm -rf .venv demo .pytest_cache .ruff_cache
