"""Programs of the tests that only root can run."""

import os
import sys


def is_root(target: str) -> bool:
    """Tell whether root runs this, which `make TARGET` does; else say what to type."""
    if os.geteuid() == 0:
        return True
    print(f"make {target}: needs root: type sudo make {target}", file=sys.stderr)
    return False
