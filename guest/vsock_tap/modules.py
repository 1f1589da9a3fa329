"""Which kernel modules the link and the tap need on this machine, and loading them.

udev loads a transport of vsock when it finds its device, and the kernel the rest, but not in every
container, initramfs or minimal system.  What is built in needs no loading, and modprobe knows.
"""

import os
import shutil
from pathlib import Path

from taplink.endpoint import Endpoint, Scheme
from taplink.tap import DEVICE
from taplink.text import reason
from vsock_tap.capability import CAP_SYS_MODULE, has_capability
from vsock_tap.run import run

LOCAL_CID = 1
"""VMADDR_CID_LOCAL, this machine itself (linux/vm_sockets.h)."""
_VIRTIO = "vmw_vsock_virtio_transport"
_VIRTIO_VSOCK = "0x0013"
"""VIRTIO_ID_VSOCK, as sysfs has it (linux/virtio_ids.h)."""
_PROGRAMS = "/usr/sbin:/sbin"


def transport(cid: int | None, root: Path = Path("/")) -> tuple[str, str]:
    """Return what machine this is, for people, and the module that has its way to `cid`."""
    if cid == LOCAL_CID:
        return "loopback", "vsock_loopback"
    if (root / "sys/bus/vmbus").exists():
        return "Hyper-V", "hv_sock"
    try:
        vendor = (root / "sys/class/dmi/id/sys_vendor").read_text()
    except OSError:
        vendor = ""
    if vendor.startswith("VMware"):
        return "VMware", "vmw_vsock_vmci_transport"
    return "KVM or alike", _VIRTIO


def lacks_device(endpoint: Endpoint, root: Path = Path("/")) -> bool:
    """Tell whether the hypervisor has given this machine no device for vsock, as far as is known.

    Of virtio's it is.  Where there is none, udev finds nothing to load a module for.
    """
    if endpoint.scheme is not Scheme.VSOCK or transport(endpoint.cid, root)[1] != _VIRTIO:
        return False
    kinds = (root / "sys/bus/virtio/devices").glob("*/device")
    return not any(kind.read_text().strip() == _VIRTIO_VSOCK for kind in kinds)


def missing(endpoint: Endpoint, root: Path = Path("/")) -> list[str]:
    """Return the modules that are needed and not known to be there."""
    names = []
    if not (root / DEVICE[1:]).exists():
        names.append("tun")
    if endpoint.scheme is Scheme.VSOCK:
        names += ["vsock", transport(endpoint.cid, root)[1]]
    return [name for name in names if not (root / "sys/module" / name).exists()]


def load(endpoint: Endpoint) -> dict[str, str]:
    """Load what is missing; returns why not, of each module that cannot be loaded."""
    said = {name: _modprobe(name) for name in missing(endpoint)}
    return {name: why for name, why in said.items() if why}


def obstacle(name: str) -> str:
    """Return why a module could not be loaded, or nothing; it is not loaded."""
    if not has_capability(CAP_SYS_MODULE):
        return "CAP_SYS_MODULE is missing"
    return _modprobe("-D", name)  # busybox's knows that, and no --dry-run


def _modprobe(*arguments: str) -> str:
    path = f"{os.environ.get('PATH', '')}:{_PROGRAMS}"
    modprobe = shutil.which("modprobe", path=path)
    if modprobe is None:
        return "there is no modprobe"
    try:
        run(modprobe, *arguments)
    except OSError as error:
        return reason(error)
    return ""
