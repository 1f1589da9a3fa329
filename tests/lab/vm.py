"""A virtual machine: QEMU without KVM, Debian's cloud kernel, and a busybox for all the rest.

It boots in some three seconds into a shell on the serial port, by which commands go in.  What it
runs from is a cpio archive (Documentation/driver-api/early-userspace/buffer-format.rst) that is
written here.
"""

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from tests.lab import qemu
from tests.lab.namespace import Namespace
from tests.lab.qemu import KERNEL, QEMU
from tests.lab.wait import until

BUSYBOX = Path("/bin/busybox")
MAC = "5a:94:ef:e4:0c:ee"
_BOOT_TIMEOUT = 60.0


def _is_static(program: Path) -> bool:
    return program.exists() and b"/lib64/ld-" not in program.read_bytes()


needs_vm = pytest.mark.skipif(
    not ((KERNEL / "vmlinuz").exists() and shutil.which(QEMU) and _is_static(BUSYBOX)),
    reason="needs QEMU, a static busybox and Debian's cloud kernel, which make test fetches",
)

_NETWORK = (
    "net/core/failover",
    "drivers/net/net_failover",
    "drivers/virtio/virtio_ring",
    "drivers/virtio/virtio",
    "drivers/virtio/virtio_pci_modern_dev",
    "drivers/virtio/virtio_pci_legacy_dev",
    "drivers/virtio/virtio_pci",
    "drivers/net/virtio_net",
)
"""Modules, in the order in which they need each other."""

_INIT = """\
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for module in $(cat /modules/order); do insmod /modules/$module; done
ip link set lo up
[ -e /sys/class/net/eth0 ] && ip link set eth0 up
export PS1= PS2=
stty -echo
echo booted=
while true; do setsid cttyhack sh; echo "the shell has ended: $?"; done
"""
_LEASE = """\
#!/bin/sh
[ "$1" = bound ] || exit 0
ip address add $ip/24 dev eth0
ip route add default via $router
echo "nameserver $dns" >/etc/resolv.conf
"""


class VmError(Exception):
    """A command inside failed, or the machine has ended; one line."""


class Vm:
    """A running machine; ends with `close`, or as a context manager."""

    def __init__(
        self,
        host: Namespace,
        folder: Path,
        netdev: str | None = None,
        *,
        modules: Sequence[str] = (),
        files: Mapping[str, bytes] | None = None,
        memory: int = 256,
    ) -> None:
        """QEMU runs on `host`; `netdev` is its -netdev, without an id, where there is one.

        `modules` of the kernel are loaded and `files` are there besides the usual; `memory` in MiB.
        """
        archive, console = folder / "vm.cpio", folder / "vm.console"
        loaded = [*(_NETWORK if netdev else ()), *modules]
        archive.write_bytes(_archive({**_files(loaded), **(files or {})}))
        self._process = host.start(
            "qemu",
            *qemu.command(memory, "console=ttyS0 quiet panic=-1"),
            *("-no-reboot", "-initrd", archive),
            *("-chardev", f"socket,id=console,path={console},server=on,wait=off"),
            *("-serial", "chardev:console"),
            *(("-netdev", f"{netdev},id=net") if netdev else ()),
            *(("-device", f"virtio-net-pci,netdev=net,mac={MAC}") if netdev else ()),
        )
        self._count = 0
        self._console = until(lambda: qemu.connected(console), "the machine's console is there")
        try:
            self._wait("the machine boots", "booted=", _BOOT_TIMEOUT)  # it is deaf until then
        except BaseException:
            self.close()
            raise

    def run(self, command: str, timeout: float = 60.0) -> str:
        """Run a command in the machine's shell and return what it says; raises VmError."""
        self._count += 1
        self._console.sendall(f"{command}; echo status-{self._count}=$?=\n".encode())
        said, status = self._wait(command, rf"status-{self._count}=(\d+)=", timeout)
        if status != "0":
            raise VmError(f"{command}: status {status}: {said.strip()[-200:]}")
        return said

    def _wait(self, what: str, end: str, timeout: float) -> tuple[str, str | None]:
        """Return what the machine says up to a pattern, and what that holds."""
        self._console.settimeout(timeout)
        said = ""
        while (match := re.search(end, said)) is None:
            try:
                data = self._console.recv(65536)
            except TimeoutError:
                raise VmError(f"{what}: not done in {timeout:g} s: {said[-200:]!r}") from None
            except ConnectionResetError:
                data = b""
            if not data:
                raise VmError(f"{what}: the machine has ended: {said.strip()[-500:]!r}")
            said += data.decode(errors="replace").replace("\r", "")
        return said[: match.start()], match[match.lastindex or 0]

    def get_lease(self) -> None:
        """Have the machine configure its device by DHCP."""
        self.run("udhcpc -i eth0 -n -q -s /lease")

    def close(self) -> None:
        """Pull the plug."""
        self._console.close()
        self._process.kill()

    def __enter__(self) -> "Vm":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _files(modules: Sequence[str]) -> Mapping[str, bytes | None]:
    """Return what every machine has, by path; None is a folder."""
    names = [f"{module.rpartition('/')[2]}.ko" for module in modules]
    return {
        **dict.fromkeys(("bin", "dev", "etc", "modules", "proc", "sys", "tmp")),
        "bin/busybox": BUSYBOX.read_bytes(),
        "init": _INIT.encode(),
        "lease": _LEASE.encode(),
        "modules/order": "\n".join(names).encode(),
        **{
            f"modules/{name}": (KERNEL / "modules" / f"{module}.ko").read_bytes()
            for name, module in zip(names, modules, strict=True)
        },
    }


def _archive(files: Mapping[str, bytes | None]) -> bytes:
    """Write a cpio archive in the `newc` format, in which everybody may do everything."""
    folders = {str(parent): None for path in files for parent in Path(path).parents}
    ordered = sorted((folders | dict(files)).items())
    return b"".join(_entries(dict(ordered)))


def _entries(files: Mapping[str, bytes | None]) -> Iterator[bytes]:
    for number, (path, data) in enumerate([*files.items(), ("TRAILER!!!", b"")], start=1):
        mode, body = (0o040755, b"") if data is None else (0o100755, data)
        name = path.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(body), 0, 0, 0, 0, len(name), 0)
        head = b"070701" + b"".join(b"%08x" % field for field in fields) + name
        yield head.ljust(-len(head) % 4 + len(head), b"\0")
        yield body.ljust(-len(body) % 4 + len(body), b"\0")
