"""Run in several processes from tests/system/test_distributed.py: one rank fails, and all of them learn of it."""

import sys

import torch.distributed as dist

from lejepa_hf.system.distributed import failing_together, process_index, world_size


def main() -> None:
    dist.init_process_group("gloo")
    with failing_together():
        pass
    try:
        with failing_together():
            if process_index() == 1:
                raise OSError("no room")
    except (OSError, RuntimeError) as error:
        sys.stdout.write(f"rank {process_index()}: {error!r}\n")
    assert world_size() == 3
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
