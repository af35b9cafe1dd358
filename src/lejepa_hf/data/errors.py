"""Errors of the data that end a run, with a message of one line."""


class DataError(Exception):
    """
    The data cannot be read any further.

    Args:
        message (`str`): What happened, where, and the way out. Only the last line of a worker's traceback is kept.
    """

    def __init__(self, message: str) -> None:
        if "Traceback" in message:
            message = message.rstrip().splitlines()[-1].partition(": ")[2]
        super().__init__(" ".join(message.split()))


class StreamInterrupted(DataError):
    """The connection to a remote source was lost, and the last retry failed."""


class TooManyBrokenImages(DataError):
    """The share of images that cannot be decoded is above `max_bad_fraction`."""
