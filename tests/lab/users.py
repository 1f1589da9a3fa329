"""Being another user of the machine, where there is one: in a user namespace there is not."""

from pathlib import Path

import pytest

NOBODY = 65534
AS_NOBODY = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--")
"""Stands before a command that is to run so; takes root."""

other_users = pytest.mark.skipif(
    Path("/proc/self/uid_map").read_text().split() != ["0", "0", "4294967295"],
    reason="there are no other users in a user namespace",
)
