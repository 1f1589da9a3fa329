"""What a process may do whoever its user is: capabilities, new privileges, core dumps.

By prctl(2) and capset(2), through pyprctl.
"""

from collections.abc import Callable
from contextlib import suppress

from gvproxy.sandbox.missing import library


def no_core_dumps() -> None:
    """Have no file made of the memory, which holds keys and what guests send."""
    with suppress(ImportError, ValueError, OSError):  # ImportError: Windows
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def capabilities() -> Callable[[], None]:
    """Return what drops this thread's, but for ports below 1024 where it has that one.

    And nobody but root looks into the process any more.  Raises MissingError.
    """
    with library("pyprctl"):
        import pyprctl
        from pyprctl import Cap, CapState

    def apply() -> None:
        has = CapState.get_current()
        kept = {Cap.NET_BIND_SERVICE} & has.permitted
        if pyprctl.cap_ambient_supported():
            pyprctl.cap_ambient_clear_all()
        with suppress(PermissionError):  # who has no CAP_SETPCAP can't gain any, either
            pyprctl.capbset.limit(*kept)
        if has.permitted | has.inheritable:  # else systemd may have forbidden the call
            CapState(effective=kept, permitted=kept, inheritable=set()).set_current()
        pyprctl.set_no_new_privs()
        # Also against programs of core_pattern (core(5)), for which the limit means nothing.
        pyprctl.set_dumpable(False)

    return apply
