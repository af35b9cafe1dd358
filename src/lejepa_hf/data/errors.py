"""What stops a run because of its data, with a message of one line."""


class DataError(Exception):
    """
    The data cannot be read on.

    Args:
        message (`str`): One line: what happened, where, and the way out. A loader's worker hands over a whole
            traceback instead; its last line is kept, which holds the message.
    """

    def __init__(self, message: str):
        if "Traceback" in message:
            message = message.rstrip().splitlines()[-1].partition(": ")[2]
        super().__init__(" ".join(message.split()))


class StreamInterrupted(DataError):
    """A remote source did not come back within all retries."""


class TooManyBrokenImages(DataError):
    """More images than `max_bad_fraction` allows cannot be decoded."""
