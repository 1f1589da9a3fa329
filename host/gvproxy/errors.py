"""The errors that reach whoever runs gvproxy or calls its API: each text is one line for them.

Which HTTP status an error becomes is decided in `gvproxy.api` alone.  What a guest sends never
ends up here; it is counted and dropped where it arrives.
"""

import errno

OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
"""The numbers of what fails now, and may not later: descriptors or memory have run out."""


class GvproxyError(Exception):
    """What cannot be done as asked; the text says why, in one line."""


class ConfigError(GvproxyError, ValueError):
    """A setting cannot be used; the text names its flag and says what it has to be."""


class StartError(GvproxyError):
    """The daemon cannot start: a busy port, a missing folder, a file that cannot be written."""


class ForwarderError(GvproxyError):
    """A port cannot be published or taken back."""


class BadZoneError(GvproxyError):
    """A zone of names is malformed."""


class AlreadyExposedError(ForwarderError):
    """The local address is published already."""

    def __init__(self, protocol: str, local: str) -> None:
        super().__init__(f"proxy already running for {protocol} on {local}")


class NotExposedError(ForwarderError):
    """Nothing is published at the local address."""

    def __init__(self) -> None:
        super().__init__("proxy not found")


class UnknownProtocolError(ForwarderError):
    """The protocol is none that gvproxy knows."""

    def __init__(self, protocol: str) -> None:
        super().__init__(f"unknown protocol {protocol}")


class NotSupportedError(ForwarderError):
    """What gvproxy knows, and this version cannot do yet."""


class BadLocalError(ForwarderError):
    """The local address has no port."""


class BadRemoteError(ForwarderError):
    """The remote address is malformed or not inside the virtual network."""


class BadPortError(ForwarderError):
    """A port is no number from 1 to 65535."""


class ForbiddenError(ForwarderError):
    """A guest asks for what concerns another."""


class ListenError(ForwarderError):
    """The local address cannot be listened on: it is malformed, busy, or not this machine's."""
