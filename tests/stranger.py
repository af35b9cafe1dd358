"""What makes a process one in which lejepa-hf is not installed, as with somebody who found an encoder on the Hub."""

NOT_INSTALLED = """
import sys

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "lejepa_hf":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NotInstalled())
"""
