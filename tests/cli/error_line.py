"""The line that a command ends with when it refuses."""


def one_line(text: str) -> str:
    """The only message; progress bars of the libraries, which overwrite themselves, are none."""
    told = "images in column"  # what was found before, which is no part of the error
    (line,) = [line for line in text.split("\n") if line and "\r" not in line and told not in line]
    assert line.startswith("error: ")
    return line
