"""resolv.conf: written, restored as it was, and left alone when it is somebody else's."""

import errno
import fcntl
import os
import resource
import shutil
import stat
import subprocess
import sys
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from vsock_tap.resolvconf import FIRST_LINE, ResolvConf

ONE, TWO = IPv4Address("192.168.127.1"), IPv4Address("10.0.0.1")


class Machine:
    """An /etc and a /run."""

    def __init__(self, folder: Path) -> None:
        self.etc = folder / "etc"
        self.etc.mkdir()
        self.path = self.etc / "resolv.conf"
        self.state = folder / "run" / "vsock-tap"

    def agent(self) -> ResolvConf:
        return ResolvConf(self.path, self.state)

    def body(self) -> str:
        """What an agent has written, without what it says of itself."""
        first, second, *rest = self.path.read_text().splitlines(keepends=True)
        assert first == f"{FIRST_LINE}\n"
        assert second.startswith("# Original: ")
        return "".join(rest)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_what_is_written(machine: Machine) -> None:
    machine.agent().write([ONE, TWO], ["a.test", "b.test"])
    assert machine.path.read_text() == (
        f"{FIRST_LINE}\n# Original: none\n"
        "search a.test b.test\nnameserver 192.168.127.1\nnameserver 10.0.0.1\n"
    )
    assert stat.S_IMODE(machine.path.stat().st_mode) == 0o644
    machine.agent().write([TWO], [])
    assert machine.body() == "nameserver 10.0.0.1\n"


def make_original(machine: Machine, kind: str) -> None:
    if kind == "file":
        machine.path.write_bytes(b"# theirs \xff\nnameserver 1.1.1.1\n")
        machine.path.chmod(0o640)
        os.utime(machine.path, (1, 2))
    elif kind == "link":
        (machine.etc / "stub").write_text("nameserver 127.0.0.53\n")
        machine.path.symlink_to("stub")
    elif kind == "dangling":
        machine.path.symlink_to("../run/elsewhere")


def picture(machine: Machine) -> list[tuple[str, int, str, bytes]]:
    """Describe everything in /etc."""
    found = []
    for path in sorted(machine.etc.iterdir()):
        link = os.readlink(path) if path.is_symlink() else ""
        content = path.read_bytes() if path.exists() else b""
        status = path.lstat()
        time = 0 if link else int(status.st_mtime)
        found.append((path.name, status.st_mode, f"{link}{time}", content))
    return found


@pytest.mark.parametrize("crashed", [False, True])
@pytest.mark.parametrize("kind", ["file", "link", "dangling", "nothing"])
def test_the_original_comes_back(machine: Machine, kind: str, crashed: bool) -> None:
    make_original(machine, kind)
    before = picture(machine)
    agent = machine.agent()
    agent.write([ONE], [])
    agent.write([TWO], [])
    if kind == "link":
        assert (machine.etc / "stub").read_text() == "nameserver 127.0.0.53\n"
    assert "10.0.0.1" in machine.path.read_text()
    assert (machine.agent() if crashed else agent).restore()
    assert picture(machine) == before
    assert not machine.state.exists()


def test_an_agent_that_wrote_nothing_restores_nothing(machine: Machine) -> None:
    make_original(machine, "file")
    before = picture(machine)
    assert not machine.agent().restore()
    assert picture(machine) == before


def test_what_others_wrote_meanwhile_stays(machine: Machine) -> None:
    make_original(machine, "file")
    agent = machine.agent()
    agent.write([ONE], [])
    machine.path.write_text("nameserver 9.9.9.9\n")
    assert not agent.restore()
    assert machine.path.read_text() == "nameserver 9.9.9.9\n"
    assert not machine.state.exists()
    agent.write([ONE], [])
    assert agent.restore()
    assert machine.path.read_text() == "nameserver 9.9.9.9\n"


@pytest.mark.parametrize("said", ["", "# Original: /no/such/file\n", "# Original: here\n"])
def test_a_file_of_ours_without_its_original_is_left(machine: Machine, said: str) -> None:
    machine.path.write_text(f"{FIRST_LINE}\n{said}nameserver 10.0.0.1\n")
    agent = machine.agent()
    with pytest.raises(FileNotFoundError, match="its original is gone"):
        agent.restore()
    assert machine.path.exists()
    assert agent.kept == ""


def test_the_original_is_found_whatever_became_of_the_folder(machine: Machine) -> None:
    """Numbers of devices and inodes are others after a boot, a remount or a copy."""
    make_original(machine, "file")
    before = picture(machine)
    crashed = machine.agent()
    crashed.write([ONE], [])
    assert crashed.kept.startswith(f"; the original is kept as {machine.state}/resolv.conf.")
    other = machine.etc.with_name("copy")
    shutil.copytree(machine.etc, other, symlinks=True)
    shutil.rmtree(machine.etc)
    other.rename(machine.etc)
    assert machine.agent().restore()
    assert picture(machine) == before
    assert not machine.state.exists()


def test_two_machines_with_one_state_directory(machine: Machine, tmp_path: Path) -> None:
    """Containers may share it; each takes back its own, though the other began meanwhile."""
    make_original(machine, "file")
    before = picture(machine)
    machine.agent().write([ONE], [])
    (tmp_path / "other").mkdir()
    other = ResolvConf(tmp_path / "other/resolv.conf", machine.state)
    assert not other.restore()
    other.write([TWO], [])
    assert other.restore()
    assert machine.agent().restore()
    assert picture(machine) == before


def test_a_pipe_in_its_place_is_not_waited_for(machine: Machine) -> None:
    os.mkfifo(machine.path)
    agent = machine.agent()
    assert not agent.restore()
    with pytest.raises(OSError, match="named pipe"):
        agent.write([ONE], [])


def test_one_agent_at_a_time_looks_after_the_file(machine: Machine) -> None:
    first, second = machine.agent(), machine.agent()
    assert first.claim()
    first.write([ONE], [])
    assert not second.claim()
    assert first.restore()
    assert not second.claim()
    first.release()
    assert not machine.state.exists()
    assert second.claim()
    second.release()
    assert not machine.state.exists()


def test_a_claim_ends_with_the_process(machine: Machine) -> None:
    make_original(machine, "file")
    before = picture(machine)
    child = os.fork()
    if not child:
        crashed = machine.agent()
        claimed = crashed.claim()
        crashed.write([ONE], [])
        os._exit(not claimed)
    assert os.waitpid(child, 0)[1] == 0
    agent = machine.agent()
    assert agent.claim()
    assert agent.restore()
    agent.release()
    assert picture(machine) == before
    assert not machine.state.exists()


@pytest.mark.root
def test_a_service_has_other_mounts_each_time_it_starts(machine: Machine) -> None:
    machine.path.write_text("original\n")
    crashing = f"""
import os
from ipaddress import IPv4Address
from pathlib import Path
from vsock_tap.resolvconf import ResolvConf
agent = ResolvConf(Path({str(machine.path)!r}), Path({str(machine.state)!r}))
assert agent.claim()
agent.write([IPv4Address("192.168.127.1")], [])
os._exit(0)
"""
    subprocess.run(["unshare", "--mount", sys.executable, "-c", crashing], check=True)
    assert machine.path.read_text() != "original\n"
    agent = machine.agent()
    assert agent.claim()
    assert agent.restore()
    agent.release()
    assert machine.path.read_text() == "original\n"


def test_files_of_other_folders_are_other_files(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "netns").mkdir()
    first, second = machine.agent(), ResolvConf(tmp_path / "netns/resolv.conf", machine.state)
    assert first.claim()
    assert second.claim()
    first.release()
    second.release()


def test_a_lock_released_while_it_is_taken(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = machine.agent(), machine.agent(), machine.agent()
    assert first.claim()
    flock = fcntl.flock

    def release_and_lock(descriptor: int, operation: int) -> None:
        first.release()
        flock(descriptor, operation)

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", release_and_lock)
        assert second.claim()
    assert not third.claim()
    second.release()


def test_no_lock_where_the_state_directory_cannot_be_written(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", refuse)
        agent = machine.agent()
        assert agent.claim()
    agent.release()
    assert not machine.state.exists()


def refuse_to_replace(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", refuse)


def contents(machine: Machine) -> list[tuple[str, int, int, bytes]]:
    """Describe everything in /etc, except for times."""
    return [
        (path.name, path.lstat().st_ino, path.lstat().st_mode, path.read_bytes())
        if path.exists()
        else (path.name, path.lstat().st_ino, 0, os.readlink(path).encode())
        for path in sorted(machine.etc.iterdir())
    ]


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EXDEV, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("crashed", [False, True])
@pytest.mark.parametrize("kind", ["file", "link", "dangling"])
def test_a_file_that_cannot_be_replaced_is_written_in_place(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, kind: str, crashed: bool, number: int
) -> None:
    make_original(machine, kind)
    before = contents(machine)
    refuse_to_replace(monkeypatch, number)
    agent = machine.agent()
    agent.write([ONE], ["a-search-domain-that-makes-it-longer.test"])
    agent.write([TWO], [])
    assert machine.body() == "nameserver 10.0.0.1\n"
    assert machine.path.is_symlink() is (kind != "file")
    assert (machine.agent() if crashed else agent).restore()
    assert contents(machine) == before
    assert not machine.state.exists()
    assert not list(machine.state.parent.iterdir())


def test_a_link_once_written_through_is_not_replaced(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_original(machine, "link")
    before = contents(machine)
    with monkeypatch.context() as patch:
        refuse_to_replace(patch, errno.EROFS)
        machine.agent().write([ONE], [])
    machine.agent().write([TWO], [])
    assert "10.0.0.1" in (machine.etc / "stub").read_text()
    assert machine.agent().restore()
    assert contents(machine) == before


def test_an_original_that_cannot_be_restored_is_kept_for_the_next_start(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_original(machine, "file")
    before = picture(machine)
    agent = machine.agent()
    agent.write([ONE], [])
    with monkeypatch.context() as patch:
        refuse_to_replace(patch, errno.ENOSPC)
        with pytest.raises(OSError, match="No space left"):
            agent.restore()
    assert list(agent.state_directory.iterdir())
    assert machine.agent().restore()
    assert picture(machine) == before
    assert not machine.state.exists()


def test_a_full_disk_in_the_middle_of_writing_in_place(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_original(machine, "link")
    before = contents(machine)
    refuse_to_replace(monkeypatch, errno.EROFS)
    machine.agent().write([ONE], [])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            machine.agent().restore()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert machine.agent().restore()
    assert contents(machine) == before


def test_other_errors_are_the_callers(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="full"):
        machine.agent().write([ONE], [])
    assert list(machine.etc.iterdir()) == []


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EEXIST])
def test_a_state_directory_that_cannot_be_made(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    make_original(machine, "file")
    before = picture(machine)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(Path, "mkdir", refuse)
    agent = machine.agent()
    agent.write([ONE], [])
    assert agent.restore()
    assert picture(machine) == before
    assert list(tmp_path.glob("vsock-tap-*")) == []


def test_a_state_folder_that_is_somebody_elses(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.path.write_text("original\n")
    machine.state.mkdir(parents=True)
    access = os.access
    # Root may write everywhere, so the refusal is made.
    monkeypatch.setattr(
        os, "access", lambda path, mode: path != machine.state and access(path, mode)
    )
    agent = machine.agent()
    agent.write([ONE], [])
    assert not list(machine.state.iterdir())
    assert agent.restore()
    assert machine.path.read_text() == "original\n"
