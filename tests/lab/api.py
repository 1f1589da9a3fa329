"""HTTP over a unix socket: how the host's clients call gvproxy."""

import http.client
import json
import socket
from pathlib import Path
from typing import Any


class ApiError(Exception):
    """The call was answered with something other than 200."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text.strip()}")
        self.status = status


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("gvproxy", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def call(path: Path, method: str, target: str, body: object = None, timeout: float = 10.0) -> str:
    """Call the API at a unix socket and return the answer's text; raises ApiError, OSError."""
    connection = _UnixConnection(path, timeout)
    try:
        connection.request(method, target, None if body is None else json.dumps(body))
        response = connection.getresponse()
        text = response.read().decode()
    finally:
        connection.close()
    if response.status != 200:
        raise ApiError(response.status, text)
    return text


def get(path: Path, target: str) -> Any:
    """Return the decoded JSON that a GET is answered with."""
    return json.loads(call(path, "GET", target))
