"""The network and how it is rolled out over time."""

import os


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


_import_keras_quietly()
