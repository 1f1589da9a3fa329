"""Gets a link to the host: connect, negotiate, and how long to wait before trying again."""

import asyncio
import random
import socket
from dataclasses import dataclass

from taplink.bearer import Bearer
from taplink.endpoint import Endpoint, Scheme, connect
from taplink.framing import LinkError
from taplink.program import Program, start
from taplink.text import reason
from taplink.upgrade import SILENCE, Agreed, ResponseReader, connect_request, unasked
from taplink.vnet import Offload

CONNECT_TIMEOUT = 10.0
"""Seconds; a host that is up accepts at once."""
FIRST_DELAY = 0.1
"""Seconds before the second attempt."""
LAST_DELAY = 5.0
"""Seconds between attempts, at most: what a restart of the host side may cost."""
LASTING = LAST_DELAY
"""Seconds after which a link has worked.  One that ends sooner may be the first of many, and
connecting at once after one that did not is no more attempts than the longest delay allows."""


@dataclass(frozen=True, slots=True)
class Link:
    """A connected socket and what is spoken on it; `program` is what was started for it."""

    sock: socket.socket
    agreed: Agreed
    program: Program | None = None

    async def why(self, error: Exception) -> str:
        """Return why the link has ended, which the relay found out by an error."""
        if self.program is not None and not isinstance(error, LinkError):
            return await self.program.end()
        return describe(error)


class Backoff:
    """Delays that double from FIRST_DELAY to LAST_DELAY, each shortened by up to a half at random
    so that the guests of one host do not come back all at once."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._delay = FIRST_DELAY

    def next(self) -> float:
        """Return the seconds to wait now."""
        delay, self._delay = self._delay, min(self._delay * 2, LAST_DELAY)
        return delay * self._rng.uniform(0.5, 1.0)

    def link_ended(self, seconds: float) -> None:
        """Begin again, if the link lasted so long that it worked."""
        if seconds >= LASTING:
            self._delay = FIRST_DELAY


async def open_link(
    endpoint: Endpoint,
    offload: Offload,
    bearer: Bearer | None = None,
    *,
    silence: float = SILENCE,
) -> Link:
    """Connect and agree on a dialect; `offload` is what can be offered, `silence` in seconds.

    `bearer` has the token for a host that asks for one.  Raises OSError when the host cannot be
    reached, LinkError when it refuses or closes, and EndpointError when it can never be reached.
    """
    if endpoint.scheme is Scheme.STDIO:
        return await _open_program(endpoint, silence)
    sock = await connect(endpoint, CONNECT_TIMEOUT)
    try:
        agreed = await negotiate(sock, connect_request(endpoint, offload, bearer), offload, silence)
    except BaseException as error:
        sock.close()
        if bearer is not None and isinstance(error, LinkError):
            raise LinkError(bearer.hidden(str(error))) from None
        raise
    return Link(sock, agreed)


async def _open_program(endpoint: Endpoint, silence: float) -> Link:
    """Start the program, which has nothing to agree on, and see whether it fails at once."""
    program = await start(endpoint)
    received = b""
    try:
        try:
            async with asyncio.timeout(silence):
                received = await asyncio.get_running_loop().sock_recv(program.sock, 65536)
        except TimeoutError:
            pass  # it lives
        else:
            if not received:
                raise LinkError(await program.end())
        return Link(program.sock, unasked(received), program)
    except BaseException:
        program.sock.close()
        raise


async def negotiate(
    sock: socket.socket, request: bytes, offload: Offload, silence: float
) -> Agreed:
    """Send the request and wait for what the host makes of it."""
    loop = asyncio.get_running_loop()
    reader = ResponseReader(offload)
    try:
        async with asyncio.timeout(silence):
            await loop.sock_sendall(sock, request)
            while True:
                data = await loop.sock_recv(sock, 65536)
                if not data:
                    raise LinkError("the host closed the connection")
                if agreed := reader.feed(data):
                    return agreed
    except TimeoutError:
        return reader.silent()


def describe(error: Exception) -> str:
    """Return what to tell of an error by which a link did not come about, or ended."""
    if isinstance(error, EOFError):
        return "the host closed it"
    if isinstance(error, TimeoutError) and not error.strerror:
        return "no answer in time"
    return reason(error)
