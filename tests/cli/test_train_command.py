import pytest
from error_line import one_line

from lejepa_hf.cli.train_command import run_training


def test_what_needs_no_run(capsys):
    assert run_training(["digits/vit_tiny", "--help"]) == 0 and "usage: lejepa train" in capsys.readouterr().out
    assert run_training([]) == 2 and "usage: lejepa train" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["digits/resnet_tinny"], ["digits/vit_tiny", "--max_steps", "0"]])
def test_a_mistake_is_one_line(arguments, capsys):
    assert run_training(arguments) == 2
    assert one_line(capsys.readouterr().err).startswith("error: ")
