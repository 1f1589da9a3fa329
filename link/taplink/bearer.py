"""The secret by which a caller over TCP proves that it may call (RFC 6750): read from its file.

The file is as private as a key of ssh's.  Where a secret is shown, it is not.
"""

import hmac
import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path

from taplink.text import reason

MIN_LENGTH = 16
"""Characters: too many to be tried out, even where they are not random in full."""
MAX_LENGTH = 1024
"""A request head has room for eight of them and more."""
_TOKEN = re.compile(rb"[A-Za-z0-9._~+/-]+=*")  # RFC 6750 §2.1
_SCHEME = re.compile(r"bearer +", re.IGNORECASE)  # RFC 9110 §11.1: in any case


@dataclass(frozen=True, slots=True)
class Bearer:
    """The secret of a file."""

    path: Path
    secret: str = field(repr=False)

    @property
    def credentials(self) -> str:
        """Return the value of an Authorization header."""
        return f"Bearer {self.secret}"

    def admits(self, authorization: str) -> bool:
        """Tell whether that header's value is ours, in a time that says nothing of it."""
        scheme = _SCHEME.match(authorization)
        given = authorization[scheme.end() :] if scheme else ""
        return hmac.compare_digest(given.encode(errors="replace"), self.secret.encode())

    def hidden(self, text: str) -> str:
        """Return what a host says, which may know the secret, for a log."""
        return text.replace(self.secret, "...")


def read(text: str) -> Bearer:
    """Read the file at a path; raises ValueError, in one line that begins with it."""
    if not text:
        raise ValueError("must not be empty")
    path = Path(text)
    try:
        with open(path, "rb", opener=_open) as file:
            status = os.fstat(file.fileno())
            contents = file.read(MAX_LENGTH + 3) if stat.S_ISREG(status.st_mode) else b""
    except (OSError, ValueError) as error:
        raise ValueError(f"{text}: cannot be read: {reason(error)}") from error
    problem = _problem(status, contents)
    if problem:
        raise ValueError(f"{text}: {problem}")
    return Bearer(path, contents.strip().decode())


def _problem(status: os.stat_result, contents: bytes) -> str:
    """Return what is wrong with a file, without any of its contents."""
    token = contents.strip()
    mode = status.st_mode
    if not stat.S_ISREG(mode):
        return "is no regular file"
    # As sshd has it of what says who may log in: its owner could write another token.
    if os.name == "posix" and status.st_uid not in (0, os.geteuid()):
        return f"belongs to user {status.st_uid}, and not to who reads it or to root"
    if os.name == "posix" and mode & 0o077:
        return f"has mode {stat.S_IMODE(mode):04o}: nobody but its owner may have access (0600)"
    if not token:
        return "is empty"
    if len(token.splitlines()) > 1:
        return "has more than one line"
    if len(token) < MIN_LENGTH:
        return f"has a token of less than {MIN_LENGTH} characters"
    if len(token) > MAX_LENGTH:
        return f"has a token of more than {MAX_LENGTH} characters"
    if not _TOKEN.fullmatch(token):
        return "has other characters in it than a token may have: letters, digits and -._~+/"
    return ""


def _open(path: str, flags: int) -> int:
    # A FIFO is not to be waited for, a terminal not to become ours.
    nonblock, noctty = getattr(os, "O_NONBLOCK", 0), getattr(os, "O_NOCTTY", 0)
    return os.open(path, flags | nonblock | noctty)
