"""Whether the kernel that runs the tests has Landlock."""

import landlockpy
import pytest


def _there() -> bool:
    try:
        return bool(landlockpy.abi_version())
    except landlockpy.UnsupportedError:
        return False


needs_landlock = pytest.mark.skipif(not _there(), reason="the kernel has no Landlock")
