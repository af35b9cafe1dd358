import collections
import pickle
import socket

import pytest
from payload import Payload

from lejepa_hf.system.restricted_pickle import read_pickle


def is_ordered_dict(module: str, name: str) -> bool:
    return (module, name) == ("collections", "OrderedDict")


def test_containers_and_known_classes(tmp_path):
    content = {"a": [1, 2.0, None, b"x"], "b": collections.OrderedDict(c=(True,))}
    (tmp_path / "file").write_bytes(pickle.dumps(content))
    assert read_pickle(tmp_path / "file", is_ordered_dict) == content


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_everything_else_is_refused_before_it_is_called(tmp_path, protocol):
    (tmp_path / "file").write_bytes(pickle.dumps([Payload(tmp_path / "made")], protocol))
    with pytest.raises(pickle.UnpicklingError, match=r"GLOBAL (posix|nt)\.mkdir is not a known class"):
        read_pickle(tmp_path / "file", is_ordered_dict)
    assert not (tmp_path / "made").exists()


def test_an_attribute_of_a_known_class_is_not_known(tmp_path):
    (tmp_path / "file").write_bytes(b"\x80\x04\x8c\x0bcollections\x8c\x1aOrderedDict.__subclasses__\x93.")
    with pytest.raises(pickle.UnpicklingError, match="not a known class"):
        read_pickle(tmp_path / "file", is_ordered_dict)


def test_members_of_enumerations_as_some_pythons_write_them(tmp_path):
    def read(kind: str, name: str) -> object:
        (tmp_path / "file").write_bytes(f"cbuiltins\ngetattr\n(csocket\n{kind}\nV{name}\ntR.".encode())
        return read_pickle(tmp_path / "file", lambda module, _: module == "socket")

    assert read("AddressFamily", "AF_INET") is socket.AF_INET
    for kind, name in (("AddressFamily", "mro"), ("AddressFamily", "__class__"), ("socket", "close")):
        with pytest.raises(pickle.UnpicklingError, match="GLOBAL builtins.getattr is not of an enumeration"):
            read(kind, name)
