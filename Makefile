# make test: lint and tests. make demo: data, training, video, error table in about a quarter of an
# hour. Both make their own virtual environment first.

PYTHON ?= python3
BIN = .venv/bin
GAME = freeway
MODEL = lstm_84x84x1
DEMO = demo/checkpoints/$(GAME)/$(MODEL)
DEMO_FLAGS = --atari_game=$(GAME) --model=$(MODEL) --policy=persistent \
	--data_path=demo/data --train_dir=demo/checkpoints

.PHONY: test demo clean

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
	KERAS_BACKEND=jax $(BIN)/python -m pytest -q -n auto tests/test_networks.py tests/test_predictor.py tests/test_transitions.py

demo: .venv/installed
	$(BIN)/python -m systems.record --atari_game=$(GAME) --policy=persistent --num_frames=30000 --seed=1 --data_path=demo/data
	$(BIN)/python compress_seq_1_train.py $(DEMO_FLAGS) --max_steps=160
	$(BIN)/python compress_seq_3_train.py $(DEMO_FLAGS) --max_steps=80
	$(BIN)/python compress_seq_5_train.py $(DEMO_FLAGS) --max_steps=400
	$(BIN)/python compress_seq_5_train_reward.py $(DEMO_FLAGS) --max_steps=100
	$(BIN)/python generate_video.py --checkpoint $(DEMO)/compress_seq_5_reward --output demo/freeway.mp4
	$(BIN)/python generate_video.py --checkpoint $(DEMO)/compress_seq_5_reward --output demo/freeway.gif

clean:
	rm -rf .venv demo .pytest_cache .ruff_cache
