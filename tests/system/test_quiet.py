from lejepa_hf.system.quiet import is_quiet, quietly


def test_an_inner_block_does_not_end_it():
    assert not is_quiet()
    with quietly():
        with quietly(False):
            assert is_quiet()
        assert is_quiet()
    assert not is_quiet()
