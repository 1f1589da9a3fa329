"""The host's resolv.conf(5): its name servers and search domains, as they are now.

A VPN or a new network rewrites the file while we run.
"""

from ipaddress import ip_address
from pathlib import Path

from gvproxy.services.followed import FollowedFile

MAX_SERVERS = 3  # resolv.conf(5): MAXNS
PORT = 53


class ResolvConf:
    """Follows the file at `path`; a file that is not there lists nothing."""

    def __init__(self, path: Path = Path("/etc/resolv.conf"), port: int = PORT) -> None:
        self._file = FollowedFile(path)
        self._port = port
        self._servers: tuple[tuple[str, int], ...] = ()
        self._search: tuple[str, ...] = ()

    def servers(self, now: float) -> tuple[tuple[str, int], ...]:
        """Return address and port of the name servers, in the order they are to be asked."""
        self._follow(now)
        return self._servers

    def search(self, now: float) -> tuple[str, ...]:
        """Return the search domains, without their final dot."""
        self._follow(now)
        return self._search

    def _follow(self, now: float) -> None:
        text = self._file.changed(now)
        if text is not None:
            self._read(text)

    def _read(self, text: str) -> None:
        servers: list[tuple[str, int]] = []
        search: list[str] = []
        for line in text.splitlines():
            match line.split("#")[0].split(";")[0].split():
                case ["nameserver", address, *_] if _is_address(address):
                    servers.append((address, self._port))
                case [("search" | "domain"), *names]:
                    search = names  # the last line counts
        self._servers = tuple(servers[:MAX_SERVERS])
        self._search = tuple(name.rstrip(".") for name in search if name.strip("."))


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
        text.encode("idna")  # as sockets do: a zone (RFC 4007) may be any text
    except ValueError:
        return False
    return "\0" not in text
