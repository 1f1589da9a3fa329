"""What this process may do, of what the superuser may (capabilities(7))."""

from pathlib import Path

CAP_NET_ADMIN = 12  # linux/capability.h
CAP_SYS_MODULE = 16


def has_capability(number: int) -> bool:
    """Tell whether a capability is in effect."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> number & 1)
    return True
