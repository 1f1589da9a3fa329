"""Unix sockets of a guest's, reached through the guest's sshd.

There is one ssh connection to a guest's path, over a virtual socket.  It is made when the first
client comes, kept, and made anew when it has ended or does not answer: a guest that reboots costs
the clients of that time a wait, and no more.  Each client is a channel of it.

The guest's host key is not checked, as in Go's gvproxy: the network has nobody else at that
address.  The key and all else of the connection is what the remote says; no configuration and no
agent of the user's takes part.  To be imported only when it is needed: asyncssh takes 16 MiB.
"""

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine
from typing import Any, cast

import asyncssh

from gvproxy.complaint import Complaint
from gvproxy.errors import BadRemoteError
from gvproxy.services.forwards import SshRemote
from gvproxy.virtual import VirtualNetwork
from taplink.text import one_line, reason

log = logging.getLogger(__name__)

PATIENCE = 30.0
"""Seconds a client waits for a guest that cannot be reached, such as one that boots."""
RETRY_INTERVAL = 0.5
ANSWER_TIMEOUT = 5.0
"""Seconds until a connection whose guest does not answer is taken for dead."""
LOGIN_TIMEOUT = 15.0
"""Seconds for keys and login; a guest that boots is slow."""
KEEPALIVE_INTERVAL, KEEPALIVE_COUNT = 15.0, 3
MAX_CLIENTS = 256
_CHUNK = 64 * 1024

Channel = tuple[asyncssh.SSHReader[bytes], asyncssh.SSHWriter[bytes]]

logging.getLogger("asyncssh").setLevel(logging.WARNING)  # at INFO it tells of each channel


def read_key(remote: SshRemote) -> asyncssh.SSHKey:
    """Read the private key a remote names; raises BadRemoteError."""
    try:
        return asyncssh.read_private_key(remote.key, remote.passphrase)
    except (OSError, ValueError) as error:  # asyncssh's KeyImportError is a ValueError
        raise BadRemoteError(f"key {remote.key} cannot be read: {_why(error)}") from error


class SshTunnel:
    """Takes clients' sockets until it is closed."""

    def __init__(self, network: VirtualNetwork, remote: SshRemote, key: asyncssh.SSHKey) -> None:
        """`remote` has the guest's address, and not its name."""
        self._network = network
        self._remote = remote
        self._key = key
        self._ssh: asyncssh.SSHClientConnection | None = None
        self._dialling = asyncio.Lock()
        self._clients: set[asyncio.Task[None]] = set()
        self._retired = False
        self.ended: Callable[[], None] = lambda: None  # called once it is retired, and unused
        self._complaint = Complaint(log)

    def take(self, sock: socket.socket) -> None:
        """Join a client's socket, which belongs to the tunnel from now on, to the guest's."""
        if len(self._clients) >= MAX_CLIENTS:
            self._complain("a client of %s is sent away: there are %d", MAX_CLIENTS)
            sock.close()
            return
        task = asyncio.get_running_loop().create_task(self._serve(sock))
        self._clients.add(task)
        task.add_done_callback(self._left)

    @property
    def busy(self) -> bool:
        """There are clients."""
        return bool(self._clients)

    def retire(self) -> None:
        """End the connection as soon as the clients of now have gone."""
        self._retired = True
        self._end_if_unused()

    async def close(self) -> None:
        """End everything."""
        self._retired = True
        for task in self._clients:
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        self._end_if_unused()

    def _complain(self, text: str, why: object) -> None:
        now = asyncio.get_running_loop().time()
        self._complaint.make(now, text, self._remote, why)

    def _left(self, task: asyncio.Task[None]) -> None:
        self._clients.discard(task)
        self._end_if_unused()

    def _end_if_unused(self) -> None:
        if self._retired and not self._clients:
            self._drop()
            self.ended()

    def _drop(self) -> None:
        """End the ssh connection, if there is one."""
        if self._ssh is not None:
            self._ssh.abort()
            self._ssh = None

    async def _serve(self, sock: socket.socket) -> None:
        reader, writer = await asyncio.open_unix_connection(sock=sock)
        try:
            channel = await self._open()
            await _join((reader, writer), channel)
        except (OSError, asyncssh.Error) as error:
            self._complain("a client of %s is let down: %s", _why(error))
        finally:
            writer.close()

    async def _open(self) -> Channel:
        """Open a channel; raises OSError and asyncssh.Error when there is none in time."""
        async with asyncio.timeout(PATIENCE):
            while True:
                ssh = None
                try:
                    ssh = await self._connection()
                    async with asyncio.timeout(ANSWER_TIMEOUT):
                        return await ssh.open_unix_connection(self._remote.path)
                except asyncssh.PermissionDenied:
                    raise
                except asyncssh.ChannelOpenError:
                    if ssh is not None and self._ssh is ssh and not ssh.is_closed():
                        raise  # the connection is well: the guest has no such socket
                except (OSError, asyncssh.Error) as error:
                    log.debug("%s: %s", self._remote, _why(error))
                    if ssh is None:
                        await asyncio.sleep(RETRY_INTERVAL)
                    elif self._ssh is ssh:  # it is there, and does not answer
                        self._drop()

    async def _connection(self) -> asyncssh.SSHClientConnection:
        async with self._dialling:
            if self._ssh is None or self._ssh.is_closed():
                remote = self._remote
                self._ssh = await asyncssh.connect(
                    remote.host,
                    remote.port,
                    # What it asks of a tunnel is what the network has.
                    tunnel=cast(Any, self._network),
                    username=remote.user,
                    client_keys=[self._key],
                    preferred_auth="publickey",
                    known_hosts=None,
                    config=None,
                    agent_path=None,
                    login_timeout=LOGIN_TIMEOUT,
                    keepalive_interval=KEEPALIVE_INTERVAL,
                    keepalive_count_max=KEEPALIVE_COUNT,
                )
                log.info("connected to %s", remote)
            return self._ssh


async def _join(
    client: tuple[asyncio.StreamReader, asyncio.StreamWriter], channel: Channel
) -> None:
    """Copy both ways until both have ended, or either breaks off."""
    try:
        await _both(_copy(client[0], channel[1]), _copy(channel[0], client[1]))
    finally:
        channel[1].close()


async def _both(*copies: Coroutine[Any, Any, None]) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            for copy in copies:
                group.create_task(copy)
    except* (OSError, asyncssh.Error) as errors:
        log.debug("a client's connection broke off: %s", _why(errors.exceptions[0]))


async def _copy(
    reader: asyncio.StreamReader | asyncssh.SSHReader[bytes],
    writer: asyncio.StreamWriter | asyncssh.SSHWriter[bytes],
) -> None:
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()
    writer.write_eof()


def _why(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer"
    assert isinstance(error, Exception)
    return one_line(reason(error)) or type(error).__name__
