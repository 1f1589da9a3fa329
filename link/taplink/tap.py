"""Opens a tap, the kernel's Ethernet device whose cable is a file descriptor.

A frame is one `read` or one `write` of the descriptor.  With IFF_VNET_HDR a virtio-net header
stands before it (`vnet`), and the kernel hands over what it did not segment or checksum, as far as
TUNSETOFFLOAD allows; what is written may always be unfinished.  Of the header's twelve bytes the
kernel before 6.14 fills ten and leaves `num_buffers` as it was in the buffer; nobody reads it.

Addresses, MTU and state of the device are set over netlink, elsewhere.  Linux only; see
Documentation/networking/tuntap.rst and linux/if_tun.h.
"""

import ctypes
import errno
import os
import socket
from contextlib import suppress
from struct import Struct
from types import TracebackType
from typing import Self

from taplink import vnet
from taplink.vnet import Offload

with suppress(ImportError):  # Windows has neither this nor taps
    import fcntl

DEVICE = "/dev/net/tun"
MAX_NAME = 15
"""IFNAMSIZ with its closing zero is 16 bytes (linux/if.h)."""

TUNSETIFF = 0x400454CA
TUNSETOFFLOAD = 0x400454D0
TUNGETIFF = 0x800454D2
TUNSETVNETHDRSZ = 0x400454D8
TUNSETVNETLE = 0x400454DC

IFF_TAP = 0x0002
IFF_MULTI_QUEUE = 0x0100
IFF_NO_PI = 0x1000
IFF_VNET_HDR = 0x4000
IFF_TUN_EXCL = 0x8000
"""Fail with EBUSY when the interface exists."""

_IFREQ = Struct("16sH22x")  # struct ifreq with ifr_flags; 40 bytes on 64-bit machines
_INT = Struct("i")
_SOCK_FILTER = Struct("HBBI")  # linux/filter.h
_SOCK_FPROG = Struct("@HP")
BPF_RET = 0x06
TUNATTACHFILTER = 0x400054D5 | _SOCK_FPROG.size << 16
TUNDETACHFILTER = 0x400054D6 | _SOCK_FPROG.size << 16

_TSO_FAMILIES = Offload.TSO4 | Offload.TSO6
_TSO = Offload.CSUM | _TSO_FAMILIES
_USO = Offload.USO4 | Offload.USO6
_OFFERS = (
    _TSO | Offload.TSO_ECN | _USO,  # Linux 6.2 and later
    _TSO | Offload.TSO_ECN,
    _TSO,
    Offload.CSUM,
)
"""What the kernel is asked for, the largest set first: it refuses a set with a bit it lacks."""


class TapError(Exception):
    """The tap cannot be opened or set up; one line with the interface's name and the reason."""


class Tap:
    """An open tap.

    `offload` is the set the kernel may leave undone in what is read; `vnet_hdr` tells whether
    frames have the virtio-net header.  The descriptor does not block and belongs to the object.
    """

    __slots__ = ("fd", "name", "offload", "vnet_hdr")

    def __init__(self, fd: int, name: str, vnet_hdr: bool) -> None:
        """Take over a descriptor that is attached already; `open_tap` is the usual way."""
        self.fd = fd
        self.name = name
        self.vnet_hdr = vnet_hdr
        self.offload = Offload.NONE

    def set_offload(self, offload: Offload) -> None:
        """Set what the kernel may leave undone from now on.

        What the kernel takes only with another offload is left out without that one.  Frames
        queued before keep the shape they have.  Raises TapError when the kernel lacks one
        of the offloads, or when the tap has no virtio-net header to describe them with.
        """
        if offload & _USO != _USO:
            offload &= ~_USO
        if not offload & _TSO_FAMILIES:
            offload &= ~Offload.TSO_ECN
        if self.vnet_hdr:
            try:
                fcntl.ioctl(self.fd, TUNSETOFFLOAD, int(offload))
            except OSError as error:
                raise _error(self.name, error) from error
        elif offload:
            raise TapError(f"{self.name}: no virtio-net header, so no offloads")
        self.offload = offload

    def set_largest_offload(self) -> None:
        """Set the largest set the kernel takes."""
        for offload in _OFFERS if self.vnet_hdr else ():
            try:
                self.set_offload(offload)
            except TapError:
                continue
            return
        self.set_offload(Offload.NONE)

    def close(self) -> None:
        """Detach; the interface is gone with it unless it is a persistent one."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def open_tap(name: str, *, preexisting: bool = False) -> Tap:
    """Open the tap `name` with the largest set of offloads the kernel takes.

    With `preexisting` the interface must exist, and needs no privilege when it belongs to the
    user; without it the interface must not exist, as another program's settings would be on it.
    Raises TapError.
    """
    check_name(name)
    try:
        fd = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise TapError(f"{DEVICE} is not there: the module tun is not loaded") from error
    except OSError as error:
        raise TapError(f"{DEVICE}: {error.strerror}") from error
    try:
        tap = Tap(fd, name, _take(fd, name) if preexisting else _create(fd, name))
        _prepare(tap)
    except OSError as error:
        os.close(fd)
        raise _error(name, error) from error
    except TapError:
        os.close(fd)
        raise
    return tap


def adopt_tap(fd: int) -> Tap:
    """Take over a tap that another program has opened, with the largest set of offloads.

    Raises TapError, and then the descriptor is as it was.
    """
    try:
        encoded, flags = _IFREQ.unpack(fcntl.ioctl(fd, TUNGETIFF, bytes(_IFREQ.size)))
    except (OSError, NameError) as error:
        if isinstance(error, OSError) and error.errno == errno.EBADFD:
            raise TapError("the tap has no interface, or no longer") from None
        raise TapError("it is no tap") from None
    name = os.fsdecode(encoded.rstrip(b"\0"))
    if not flags & IFF_TAP:
        raise TapError(f"{name}: a tun, which has no Ethernet frames; a tap is needed")
    tap = Tap(fd, name, bool(flags & IFF_VNET_HDR))
    try:
        if not _without_packet_information(fd):
            raise TapError(f"{name}: the tap was opened without IFF_NO_PI")
        os.set_blocking(fd, False)
        _prepare(tap)
    except OSError as error:
        raise _error(name, error) from error
    return tap


def _without_packet_information(fd: int) -> bool:
    """Tell whether frames come without struct tun_pi; a filter the tap had is lost.

    TUNGETIFF says IFF_NOFILTER by the bit of IFF_NO_PI (drivers/net/tun.c), so only of a tap that
    has a filter does it tell the latter.  The one it has meanwhile lets everything pass.
    """
    everything = ctypes.create_string_buffer(_SOCK_FILTER.pack(BPF_RET, 0, 0, 0xFFFFFFFF))
    program = _SOCK_FPROG.pack(1, ctypes.addressof(everything))
    fcntl.ioctl(fd, TUNATTACHFILTER, program)
    try:
        _, flags = _IFREQ.unpack(fcntl.ioctl(fd, TUNGETIFF, bytes(_IFREQ.size)))
    finally:
        fcntl.ioctl(fd, TUNDETACHFILTER, program)
    return bool(flags & IFF_NO_PI)


def _prepare(tap: Tap) -> None:
    if tap.vnet_hdr:
        fcntl.ioctl(tap.fd, TUNSETVNETHDRSZ, _INT.pack(vnet.SIZE))
        fcntl.ioctl(tap.fd, TUNSETVNETLE, _INT.pack(1))
    tap.set_largest_offload()


def check_name(name: str) -> None:
    """Raise TapError unless the kernel takes `name` for an interface (dev_valid_name)."""
    encoded = os.fsencode(name)
    if not 0 < len(encoded) <= MAX_NAME:
        raise TapError(f"{name!r}: an interface's name has 1 to {MAX_NAME} bytes")
    if name in (".", "..") or any(char in "/:%\0" or char.isspace() for char in name):
        raise TapError(f"{name!r} is no name of an interface")


def _create(fd: int, name: str) -> bool:
    try:
        return _attach(fd, name, IFF_TUN_EXCL)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        reason = "the interface exists already; -preexisting takes it as it is"
        raise TapError(f"{name}: {reason}") from error


def _take(fd: int, name: str) -> bool:
    # Not by /sys/class/net: a mount of sysfs shows the network namespace it was made in.
    try:
        socket.if_nametoindex(name)
    except OSError as error:
        raise TapError(f"{name}: there is no such interface") from error
    try:
        return _attach(fd, name, 0)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    try:
        return _attach(fd, name, IFF_MULTI_QUEUE)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise TapError(f"{name}: the interface is not a tap") from error


def _attach(fd: int, name: str, flags: int) -> bool:
    """Attach the descriptor to the interface; returns whether frames have a virtio-net header.

    A further queue of a tap that somebody holds open keeps that opener's choice, so what was
    asked for is not what counts.
    """
    flags |= IFF_TAP | IFF_NO_PI | IFF_VNET_HDR
    fcntl.ioctl(fd, TUNSETIFF, _IFREQ.pack(os.fsencode(name), flags))
    _, actual = _IFREQ.unpack(fcntl.ioctl(fd, TUNGETIFF, bytes(_IFREQ.size)))
    return bool(actual & IFF_VNET_HDR)


_REASONS = {
    errno.EPERM: "not permitted; opening a tap takes CAP_NET_ADMIN or its ownership",
    errno.EBUSY: "in use by another program",
    errno.ENOTTY: f"{DEVICE} is not the kernel's",
}


def _error(name: str, error: OSError) -> TapError:
    return TapError(f"{name}: {_REASONS.get(error.errno or 0, error.strerror)}")
