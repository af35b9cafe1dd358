"""What an error and its causes say, for a sentence that explains them."""

from collections.abc import Iterator


def reason_of(error: BaseException) -> str:
    """The first line of an error's text, or its type if it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def with_causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, then the one that it was raised from or after, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
