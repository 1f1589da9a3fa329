"""A web server fast enough to be measured through: GET and PUT of the files in one folder.

Run as a program, it prints its port.  The kernel moves the bytes of a download.
"""

import argparse
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_CHUNK = 1 << 20


def command(folder: Path, address: str, port: int = 0) -> list[str | Path]:
    """Return the command that serves `folder`; port 0 takes a free one."""
    return [
        *(sys.executable, "-P", "-u", Path(__file__)),
        *(str(folder), "--address", address, "--port", str(port)),
    ]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # 1.0 leaves curl waiting for "100 Continue" for a second
    folder: Path

    def _path(self) -> Path:
        return self.folder / Path(self.path).name

    def do_GET(self) -> None:
        try:
            file = self._path().open("rb")
        except OSError as error:
            self.send_error(HTTPStatus.NOT_FOUND, error.strerror)
            return
        with file:
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Length", str(self._path().stat().st_size))
            self.end_headers()
            self.wfile.flush()
            self.connection.sendfile(file)

    def do_PUT(self) -> None:
        left = int(self.headers["Content-Length"])
        buffer = memoryview(bytearray(_CHUNK))
        with self._path().open("wb") as file:
            while left:
                count = self.rfile.readinto(buffer[: min(left, _CHUNK)])
                if not count:
                    self.close_connection = True
                    return
                file.write(buffer[:count])
                left -= count
        self.send_response(HTTPStatus.CREATED)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: standard output is for the port."""


def main() -> None:
    """Serve for ever."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    _Handler.folder = options.folder
    server = ThreadingHTTPServer((options.address, options.port), _Handler)
    server.daemon_threads = True
    print("port", server.server_address[1])
    server.serve_forever()


if __name__ == "__main__":
    main()
