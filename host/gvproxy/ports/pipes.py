"""Standard input and output as one byte stream, for a guest that started us as its program."""

import os
import stat
from collections.abc import Sequence

from gvproxy.errors import StartError

_STDIN, _STDOUT = 0, 1


class Pipes:
    """Two descriptors with the calls of a connected socket that a port makes."""

    def __init__(self, reader: int = _STDIN, writer: int = _STDOUT) -> None:
        """Raises StartError unless both are pipes or sockets, which do not block from now on."""
        for descriptor in (reader, writer):
            mode = os.fstat(descriptor).st_mode
            if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
                raise StartError("-listen-stdio: standard input and output must be pipes")
            os.set_blocking(descriptor, False)
        self.writer = writer
        self._reader = reader

    def fileno(self) -> int:
        """Return what is read from."""
        return self._reader

    def recv_into(self, buffer: memoryview) -> int:
        return os.readv(self._reader, [buffer])

    def sendmsg(self, buffers: Sequence[bytes | memoryview]) -> int:
        return os.writev(self.writer, buffers)

    def close(self) -> None:
        for descriptor in {self._reader, self.writer}:
            os.close(descriptor)
