"""QEMU without KVM: what all machines of the tests have in common."""

import socket
from pathlib import Path

from tests.lab.wait import NotYetError

VENV = Path(__file__).parents[2] / ".venv"
"""What the machines run from is made there."""
KERNEL = VENV / "kernel"
"""Where `kernel.sh` has put it."""
QEMU = "qemu-system-x86_64"


def command(memory: int, append: str) -> list[str | Path]:
    """Return the command for a machine with a kernel and its command line, and no devices."""
    return [
        *(QEMU, "-nodefaults", "-no-user-config", "-display", "none"),
        *("-machine", "q35", "-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max"),
        *("-smp", "2", "-m", str(memory)),
        *("-kernel", KERNEL / "vmlinuz", "-append", append),
    ]


def connected(path: Path) -> socket.socket:
    """Connect to a socket of QEMU's; raises NotYetError."""
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.connect(str(path))
    except OSError as error:
        sock.close()
        raise NotYetError(str(error)) from error
    return sock
