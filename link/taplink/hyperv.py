"""Hyper-V's sockets, by which Windows has vsock: what guests connect to is a service with a GUID.

A Linux guest on Hyper-V knows vsock only.  Each port it connects to is the service
PORT-facb-11e6-bd58-64006a7986d3, with the port as eight hexadecimal digits (srv_id_template in
the kernel's net/vmw_vsock/hyperv_transport.c, HV_GUID_VSOCK_TEMPLATE of Windows' SDK).

Nothing here knows URLs: `endpoint` reads them.  Windows keeps a list of the services that guests
may connect to; adding to it is the administrator's business (docs/recipes.md).
"""

import re
import socket

MAX_PORT = 0x7FFFFFFF
"""Those above are the host's own when it connects; a guest's kernel refuses to connect to them
(hvs_stream_allow in net/vmw_vsock/hyperv_transport.c)."""
_TEMPLATE = "-facb-11e6-bd58-64006a7986d3"
_GUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def is_guid(text: str) -> bool:
    """Tell whether this is a GUID as Windows writes it, in either case and without braces."""
    return _GUID.fullmatch(text) is not None


def service_of(port: int) -> str:
    """Return the GUID of the service that Linux guests have as this port.

    Raises ValueError for a port which they cannot connect to.
    """
    if port > MAX_PORT:
        raise ValueError(f"Hyper-V's guests connect to ports from 0 to {MAX_PORT}, not {port}")
    return f"{port:08x}{_TEMPLATE}"


def port_of(guid: str) -> int | None:
    """Return the port that Linux guests have this service as; None where they have none."""
    number, template = guid[:8], guid[8:].lower()
    port = int(number, 16)
    return port if template == _TEMPLATE and port <= MAX_PORT else None


def available() -> bool:
    """Tell whether this is Windows, with a Python that has such sockets (3.12)."""
    return hasattr(socket, "AF_HYPERV")


def make_socket() -> socket.socket:
    """Make a byte stream's socket; its addresses are pairs, of a VM's GUID and a service's."""
    return socket.socket(
        socket.AF_HYPERV,  # type: ignore[attr-defined]
        socket.SOCK_STREAM,
        socket.HV_PROTOCOL_RAW,  # type: ignore[attr-defined]
    )


def any_vm(guid: str) -> tuple[str, str]:
    """Return the address at which a service is there for every VM."""
    return socket.HV_GUID_WILDCARD, guid  # type: ignore[attr-defined]
