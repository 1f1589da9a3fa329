"""A root folder into which packages are installed, with just what they need to run in it.

It has the machine's Python with its standard library and a shell, the libraries of these, and a
systemctl that only notes how it is called.  A package without files tells rpm that they are there.
"""

import re
import shutil
import subprocess
from collections.abc import Collection
from pathlib import Path

PYTHON = Path("/usr/bin/python3")
_SHELL = Path("/bin/sh")
_LINKED = re.compile(r"(/\S+) \(0x")
"""A line of ldd's that ends in a path and an address."""
_APART = ("var", "root", "tmp", "etc/dnf", "usr/lib/sysimage")
"""Where rpm (Debian's in root's home) and dnf keep what is their own."""
_FOLDERS = (
    *("dev", "etc", "run/systemd/system", "tmp", "var/log", "usr/lib/modules-load.d"),
    *(f"usr/lib/systemd/{name}" for name in ("network", "system", "system-preset")),
    *(f"usr/lib/systemd/{name}" for name in ("user", "user-preset")),
    *(f"usr/share/{name}" for name in ("doc", "licenses", "man/man1", "man/man8")),
    "usr/share/bash-completion/completions",
)
"""Those of Fedora's packages filesystem and systemd, which every system has."""
_CALLS = Path("var/systemctl")
_SYSTEMCTL = f"""\
#!/bin/sh
echo "$*" >>/{_CALLS}
"""
_STUB = """\
Name: stub
Version: 1
Release: 1
Summary: What this machine has
License: none
BuildArch: noarch
{provides}
%description
%files
"""


def _run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def query(package: Path, *what: str) -> list[str]:
    """Ask rpm about a package that is not installed; return its lines."""
    return _run("rpm", "--query", "--package", *what, package).splitlines()


def python_version() -> str:
    """Return the version of the machine's own Python, as in python(abi)."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    return _run(PYTHON, "-I", "-c", code).strip()


def build_stub(folder: Path, stubs: Collection[str]) -> Path:
    """Build a package that says what is there without one: Python, a shell and `stubs`."""
    folder.mkdir()
    provided = (f"python(abi) = {python_version()}", str(PYTHON), str(_SHELL), *stubs)
    spec = folder / "stub.spec"
    spec.write_text(_STUB.format(provides="\n".join(f"Provides: {name}" for name in provided)))
    _run("rpmbuild", "-bb", "--define", f"_topdir {folder}", spec)
    (package,) = (folder / "RPMS").rglob("*.rpm")
    return package


class Root:
    """Such a folder.

    `stubs` is what else rpm believes to be there, as a spec's Provides; shared objects are there.
    """

    def __init__(self, folder: Path, stubs: Collection[str]) -> None:
        self.path = folder / "root"
        self._stub = build_stub(folder / "stub", stubs)
        for name in ("bin", "lib", "lib64"):
            (self.path / "usr" / name).mkdir(parents=True)
            (self.path / name).symlink_to(f"usr/{name}")
        for name in _FOLDERS:
            (self.path / name).mkdir(parents=True)
        (self.path / "dev/null").touch()
        self._copy_programs({stub.partition("(")[0] for stub in stubs if ".so." in stub})
        systemctl = self.path / "usr/bin/systemctl"
        systemctl.write_text(_SYSTEMCTL)
        systemctl.chmod(0o755)

    def _copy_programs(self, objects: set[str]) -> None:
        library = Path(f"usr/lib/python{python_version()}")
        shutil.copytree(
            Path("/") / library,
            self.path / library,
            ignore=shutil.ignore_patterns("test", "dist-packages", "site-packages", "config-*"),
            ignore_dangling_symlinks=True,
        )
        (self.path / library / "site-packages").mkdir()
        for program in (PYTHON, _SHELL):
            shutil.copy(program, self.path / "usr/bin" / program.name)
        modules = (Path("/") / library / "lib-dynload").glob("*.so")
        linked = _LINKED.findall(_run("ldd", PYTHON, _SHELL, *modules))
        (libc,) = {Path(path) for path in linked if path.endswith("/libc.so.6")}
        for path in {*map(Path, linked), *(libc.with_name(name) for name in objects)}:
            if path.exists():  # not the loader, whose folder is another
                copy = self.path / path.relative_to("/")
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, copy)

    def dnf(self, command: str, *packages: str, repository: Path | None = None) -> None:
        """Install, upgrade or remove packages, of `repository` and of no other."""
        source = [] if repository is None else [f"--repofrompath=own,file://{repository}"]
        _run(
            *("dnf", "--quiet", "--assumeyes", f"--installroot={self.path}", "--releasever=1"),
            *("--setopt=reposdir=/nonexistent", "--nogpgcheck", "--disableplugin=*"),
            *(f"--setopt=cachedir={self.path}/var/cache", "--setopt=install_weak_deps=False"),
            *source,
            command,
            *packages,
            *([str(self._stub)] if command == "install" else ()),
        )

    def run(self, *command: str) -> str:
        """Run a command inside and return what it writes to standard output."""
        return _run("chroot", self.path, *command)

    def files(self) -> set[str]:
        """Return all files and folders, what is dnf's and rpm's own apart."""
        found = (path.relative_to(self.path) for path in self.path.rglob("*"))
        return {str(path) for path in found if not any(map(path.is_relative_to, _APART))}

    def systemctl_calls(self) -> list[str]:
        """Return how scriptlets have called systemctl since this was last asked."""
        calls = self.path / _CALLS
        lines = calls.read_text().splitlines() if calls.exists() else []
        calls.unlink(missing_ok=True)
        return lines
