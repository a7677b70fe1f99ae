"""The number format and the kernels that are chosen for a machine."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import keras
import pytest

from model.predictor import compression_model
from utils.checkpoints import CONFIG, load_predictor, save_weights, write_json
from utils.precision import fast_bfloat16
from utils.training import resolve_precision

from . import tiny  # noqa: F401 - makes the preset known


@pytest.mark.parametrize(
    "flags, expected",
    [
        ("fpu sse sse2 avx avx2 fma", False),
        ("fpu avx2 avx512f avx512_vnni", False),
        ("fpu avx2 avx512f avx512_bf16", True),
        ("fpu avx2 amx_tile amx_bf16", True),
    ],
)
def test_bfloat16_is_for_processors_with_instructions_for_it(tmp_path, flags, expected):
    if any("gpu" in device.lower() for device in keras.distribution.list_devices()):
        pytest.skip("on a GPU it is always fast")
    cpuinfo = tmp_path / "cpuinfo"
    assert not fast_bfloat16(cpuinfo)  # as on macOS, where there is no such file
    cpuinfo.write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    assert fast_bfloat16(cpuinfo) is expected


def test_auto_is_the_same_choice_for_training_and_imagining(tmp_path):
    write_json(
        tmp_path / CONFIG,
        {"model": "tiny", "variant": "compression", "action_meanings": ["NOOP", "UP"]},
    )
    save_weights(compression_model("tiny", 2).network, tmp_path)
    dtype = load_predictor(tmp_path, precision="auto").network.core.kernel.dtype
    assert dtype == ("bfloat16" if fast_bfloat16() else "float32")
    assert resolve_precision("auto") == ("mixed_bfloat16" if fast_bfloat16() else "float32")
    assert resolve_precision("float32") == "float32"


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="of TensorFlow's kernels")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="elsewhere it is as TensorFlow has it")
@pytest.mark.parametrize("wish, expected", [(None, "True"), ("0", "False")])
def test_tensorflow_computes_with_onednn_unless_told_otherwise(wish, expected):
    environment = {k: v for k, v in os.environ.items() if k != "TF_ENABLE_ONEDNN_OPTS"}
    if wish is not None:
        environment["TF_ENABLE_ONEDNN_OPTS"] = wish
    ask = "from tensorflow.python.framework.test_util import IsMklEnabled as on; print(on())"
    done = subprocess.run(
        [sys.executable, "-c", f"import model; {ask}"],
        cwd=Path(__file__).parents[1],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == expected
