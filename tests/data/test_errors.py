import pickle

import pytest

from lejepa_hf.data.errors import DataError, StreamInterrupted, TooManyBrokenImages


@pytest.mark.parametrize("kind", [DataError, StreamInterrupted, TooManyBrokenImages])
def test_the_last_line_of_a_workers_traceback_is_the_message(kind):
    traceback = f"Caught {kind.__name__} in worker 0.\nTraceback (most recent call last):\n  ...\n"
    error = kind(f"{traceback}lejepa_hf.data.errors.{kind.__name__}: shard 3: lost: retry\n")
    assert str(error) == "shard 3: lost: retry"
    assert isinstance(error, DataError)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_a_message_is_one_line():
    assert str(DataError("shard 3\n  cannot be read")) == "shard 3 cannot be read"
