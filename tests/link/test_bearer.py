"""The secret of a token file: which files are taken, and who is admitted by it."""

import os
from pathlib import Path

import pytest

from taplink import bearer

SECRET = "0123456789abcdef"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "token"


def write(path: Path, contents: bytes, mode: int = 0o600) -> str:
    path.write_bytes(contents)
    path.chmod(mode)
    return str(path)


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "  \n"])
@pytest.mark.parametrize("secret", [SECRET, "a" * bearer.MAX_LENGTH, "-._~+/AZaz09abcd=="])
def test_a_token(path: Path, secret: str, end: str) -> None:
    if len(secret + end) > bearer.MAX_LENGTH + 3:
        pytest.skip("so many spaces are no part of it")
    token = bearer.read(write(path, f"{secret}{end}".encode()))
    assert token.secret == secret
    assert token.credentials == f"Bearer {secret}"


@pytest.mark.parametrize(
    ("contents", "said"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (SECRET[1:].encode(), "has a token of less than 16 characters"),
        (b"a" * 1025, "has a token of more than 1024 characters"),
        (b"a" * 100_000, "has a token of more than 1024 characters"),
        (f"{SECRET}\n{SECRET}".encode(), "has more than one line"),
        (f"{SECRET} {SECRET}".encode(), "has other characters in it than a token may have"),
        (f"{SECRET}\0".encode(), "has other characters in it"),
        (f"{SECRET}\xe9".encode("latin-1"), "has other characters in it"),
    ],
)
def test_what_is_no_token(path: Path, contents: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=f"^{path}: {said}") as caught:
        bearer.read(write(path, contents))
    assert "\n" not in str(caught.value)
    assert SECRET[1:] not in str(caught.value)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o777, 0o610])
def test_a_file_that_others_may_have(path: Path, mode: int) -> None:
    with pytest.raises(ValueError, match=f"^{path}: has mode {mode:04o}: nobody but its owner"):
        bearer.read(write(path, SECRET.encode(), mode))


def test_a_file_of_another_user(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who may write the token may call; of root's files that is root."""
    text = write(path, SECRET.encode())
    me = os.geteuid()
    status = os.stat(path)

    def owned_by(owner: int) -> None:
        found = os.stat_result((*status[:4], owner, *status[5:10]))
        monkeypatch.setattr(os, "fstat", lambda fd: found)

    owned_by(me + 1)
    with pytest.raises(
        ValueError, match=f"^{path}: belongs to user {me + 1}, and not to who reads"
    ):
        bearer.read(text)
    for owner in (me, 0):
        owned_by(owner)
        assert bearer.read(text).secret == SECRET
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    owned_by(0)
    assert bearer.read(text).secret == SECRET
    owned_by(1001)
    with pytest.raises(
        ValueError, match="belongs to user 1001, and not to who reads it or to root"
    ):
        bearer.read(text)


def test_what_is_no_file(path: Path) -> None:
    with pytest.raises(ValueError, match=f"^{path}: cannot be read: No such file"):
        bearer.read(str(path))
    with pytest.raises(ValueError, match="cannot be read: Is a directory"):
        bearer.read(str(path.parent))
    with pytest.raises(ValueError, match="cannot be read: "):
        bearer.read("a\0b")
    os.mkfifo(path, 0o600)
    with pytest.raises(ValueError, match=f"^{path}: is no regular file$"):
        bearer.read(str(path))


@pytest.mark.parametrize(
    ("authorization", "admitted"),
    [
        (f"Bearer {SECRET}", True),
        (f"bearer   {SECRET}", True),
        ("", False),
        ("Bearer", False),
        ("Bearer ", False),
        (SECRET, False),
        (f"Basic {SECRET}", False),
        (f"Bearer{SECRET}", False),
        (f"Bearer {SECRET[1:]}", False),
        (f"Bearer {SECRET}0", False),
        (f"Bearer {SECRET.upper()}", False),
        (f"Bearer {SECRET}, Bearer {SECRET}", False),
        (f"Bearer {SECRET}\xe9", False),
        (f"Bearer {SECRET}\udcff", False),
    ],
)
def test_who_is_admitted(path: Path, authorization: str, admitted: bool) -> None:
    assert bearer.read(write(path, SECRET.encode())).admits(authorization) is admitted


def test_it_is_compared_in_constant_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []
    monkeypatch.setattr("hmac.compare_digest", lambda *both: compared.append(both))
    bearer.read(write(path, SECRET.encode())).admits("Bearer x")
    assert compared == [(b"x", SECRET.encode())]


def test_it_is_not_shown(path: Path) -> None:
    token = bearer.read(write(path, SECRET.encode()))
    assert SECRET not in f"{token!r} {token}"


def test_it_is_hidden_in_what_others_say(path: Path) -> None:
    token = bearer.read(write(path, SECRET.encode()))
    assert token.hidden(f"Authorization: Bearer {SECRET}; {SECRET}") == (
        "Authorization: Bearer ...; ..."
    )
    assert token.hidden("no such thing") == "no such thing"
