"""vpnkit's handshake, sans-IO: what hyperkit and Docker's VMs say before their first frame.

The guest's 49 bytes are given back, its 41 name the VM by a UUID, and 258 tell it MTU and MAC
address (vpnkit, src/hostnet/vmnet.ml).  Frames as hyperkit's follow.
"""

import struct
from collections.abc import Mapping
from hashlib import sha256

from taplink.framing import LinkError

HELLO_SIZE = 49
"""A word, a version and a commit's id."""
MAGIC = b"VMN3T"
REQUEST_SIZE = 41
"""A command, the VM's UUID in ASCII, and what is not used."""
ANSWER_SIZE = 258
_UUID = slice(1, 37)
_HEADER = 14  # Ethernet's


class Handshake:
    """One connection's; `done` once it is over, and `rest` is what followed it."""

    def __init__(self, mtu: int, macs: Mapping[str, bytes]) -> None:
        """`macs` are the addresses of VMs that have one, by UUID in lower case."""
        self.done = False
        self.rest = b""
        self._mtu = mtu
        self._macs = macs
        self._greeted = False
        self._data = b""

    def feed(self, data: bytes) -> bytes:
        """Take bytes of the guest's and return those for it; raises LinkError.

        Any version and any command will do: nothing else is spoken here.
        """
        self._data += data
        answer = b""
        if not self._greeted:
            if not MAGIC.startswith(self._data[: len(MAGIC)]):
                raise LinkError("what arrived is not vpnkit's hello")
            if len(self._data) < HELLO_SIZE:
                return b""
            answer, self._data = self._data[:HELLO_SIZE], self._data[HELLO_SIZE:]
            self._greeted = True
        if len(self._data) >= REQUEST_SIZE:
            answer += self._answer(self._data[:REQUEST_SIZE])
            self.rest, self._data = self._data[REQUEST_SIZE:], b""
            self.done = True
        return answer

    def _answer(self, request: bytes) -> bytes:
        uuid = request[_UUID].decode("ascii", "replace").lower()
        mac = self._macs.get(uuid) or _mac_of(uuid)
        told = struct.pack("<BHH6s", 1, self._mtu, self._mtu + _HEADER, mac)
        return told.ljust(ANSWER_SIZE, b"\0")


def _mac_of(uuid: str) -> bytes:
    """Return an address for a VM that has none: always the same, local, and of one station."""
    return b"\x5a" + sha256(uuid.encode()).digest()[:5]
