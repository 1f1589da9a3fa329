"""The state's file: what is written is read again, and what cannot be read is set aside."""

import errno
import json
import logging
import os
import stat
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from gvproxy.config import Forward, Record, Zone
from gvproxy.errors import StartError
from gvproxy.services import state
from gvproxy.services.state import SavedLease, State, StateFile, decode, encode

FULL = State(
    leases=[SavedLease("192.168.127.3", "ff01", "5a:94:ef:e4:0c:ee", "vm", 2_000_000_000)],
    forwards=[Forward("127.0.0.1:8080", "192.168.127.2:80"), Forward("/a", "tcp://b:1", "unix")],
    zones=[
        Zone(
            "example.",
            (
                Record("www", IPv4Address("192.168.127.9")),
                Record("", IPv6Address("fd00::1"), "node-.*"),
            ),
            IPv4Address("192.168.127.2"),
        )
    ],
)


@pytest.mark.parametrize("saved", [State(), FULL])
def test_what_is_written_is_read_again(tmp_path: Path, saved: State) -> None:
    folder = tmp_path / "not" / "there"
    file = StateFile(folder)
    assert file.load() == State()
    for _ in range(2):
        file.save(encode(saved))
        assert file.load() == saved
    file.close()
    assert stat.S_IMODE((folder / state.FILE).stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert sorted(one.name for one in folder.iterdir()) == ["lock", state.FILE]


def broken() -> list[bytes]:
    whole = encode(FULL)
    cut = [whole[:size] for size in range(0, len(whole) - 1, 7)]
    tree = json.loads(whole)
    wrong: list[object] = [None, [], 1, {}, tree | {"version": 2}]
    for part in ("leases", "forwards", "zones"):
        wrong += [tree | {part: value} for value in (None, 5, [None], [5], [{}], ["x"])]
        wrong += [
            tree | {part: [tree[part][0] | {key: value}]}
            for key in tree[part][0]
            for value in (None, [], "\ud800")
            if not (part == "zones" and not value)
            and not (key in ("local", "remote", "protocol") and value == "\ud800")
        ]
    wrong += [
        tree | {"leases": [tree["leases"][0] | {key: value}]}
        for key, value in (
            ("address", "1.2.3"),
            ("key", ""),
            ("key", "x"),
            ("mac", "5a"),
            ("name", "\ud800"),
            ("expires", 10**400),
            ("expires", float("nan")),
        )
    ]
    return [*cut, b"[" * 100_000, *(json.dumps(one).encode() for one in wrong)]


@pytest.mark.parametrize("text", broken(), ids=lambda text: str(len(text)))
def test_a_broken_file_is_set_aside(
    tmp_path: Path, text: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / state.FILE
    path.write_bytes(text)
    file = StateFile(tmp_path)
    assert file.load() == State()
    assert not path.exists()
    assert (tmp_path / state.ASIDE).read_bytes() == text
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith(f"{path} is broken (it ")
    assert "\n" not in record.getMessage()
    file.close()


def test_a_file_that_cannot_be_set_aside_ends_the_start(tmp_path: Path) -> None:
    path = tmp_path / state.FILE
    path.write_text("broken")
    (tmp_path / state.ASIDE).mkdir()
    file = StateFile(tmp_path)
    with pytest.raises(StartError, match=r"it is no JSON.*state\.json\.broken: Is a directory"):
        file.load()
    assert path.read_text() == "broken"
    file.close()


def test_a_file_that_may_not_be_read_is_not_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / state.FILE
    path.write_bytes(encode(FULL))
    file = StateFile(tmp_path)

    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with pytest.raises(StartError, match=r"state\.json cannot be read: Permission denied"):
            file.load()
    assert file.load() == FULL
    file.close()


@pytest.mark.parametrize(
    ("make", "problem"),
    [(os.mkfifo, "is no regular file"), (os.mkdir, "(Is a directory|is no regular file)")],
    ids=["fifo", "folder"],
)
def test_what_is_no_file_is_not_waited_for(
    tmp_path: Path, make: Callable[[Path], None], problem: str
) -> None:
    make(tmp_path / "lock")
    with pytest.raises(StartError, match=f"-state-dir {tmp_path} cannot be used: .*{problem}"):
        StateFile(tmp_path)
    other = tmp_path / "other"
    file = StateFile(other)
    make(other / f"{state.FILE}.new")
    with pytest.raises(OSError, match=problem):
        file.save(b"")
    make(other / state.FILE)
    with pytest.raises(StartError, match=rf"state\.json cannot be read: .*{problem}"):
        file.load()
    file.close()


def test_a_folder_that_is_another_s_by_now_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    first = StateFile(folder)
    first.save(encode(FULL))
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError):
        first.save(encode(FULL))
    second = StateFile(folder)
    second.save(encode(State()))
    with pytest.raises(OSError, match="another gvproxy has it by now"):
        first.save(encode(FULL))
    assert second.load() == State()
    first.close()
    second.close()


def test_a_folder_is_one_daemons(tmp_path: Path) -> None:
    first = StateFile(tmp_path)
    with pytest.raises(StartError, match=f"-state-dir {tmp_path} is another gvproxy's"):
        StateFile(tmp_path)
    first.close()
    StateFile(tmp_path).close()


@pytest.mark.parametrize("path", ["file", "file/below", "nul\0"])
def test_a_folder_that_is_none(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartError, match=r"-state-dir .* cannot be used: "):
        StateFile(tmp_path / path)


def test_a_full_disk_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = StateFile(tmp_path)
    file.save(encode(FULL))

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        file.save(encode(State()))
    assert file.load() == FULL
    file.close()


def test_numbers_that_are_no_times() -> None:
    text = encode(FULL).replace(b"2000000000", b'"soon"')
    with pytest.raises(ValueError, match="'soon' is no time"):
        decode(text)
