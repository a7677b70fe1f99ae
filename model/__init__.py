"""The network and how it is rolled out over time."""

import os
import platform


def _compute_with_onednn():
    """TensorFlow's oneDNN kernels are off by default where a processor lacks AVX-512.

    They are the faster ones there too: a training step in float32 takes little more than half the
    time (measured on AVX2; Eigen's product with a transposed matrix of few rows takes five times
    as long as oneDNN's, and back-propagation through an LSTM is made of those).
    """
    if platform.machine() in ("x86_64", "AMD64"):
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")


def _factorise_in_one_thread():
    """The threads of NumPy's OpenBLAS wait for one another by spinning.

    Beside any other process, such as a second test or training on two cores, a QR or SVD of 1,024
    columns by two threads takes 10 to 20 times as long as by one; alone it gains a fifth.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def _import_keras_quietly():
    """TensorFlow greets at its import with a dozen lines about itself that no setting silences.

    An error at the import is an exception, and is shown as ever.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    stderr = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        import keras  # noqa: F401
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


_compute_with_onednn()
_factorise_in_one_thread()
_import_keras_quietly()
