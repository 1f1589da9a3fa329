"""Which files the daemon can use once it runs, and Landlock, which sees to that.

Landlock knows folders with all that is in them, and files that are there.  Files that others
replace, such as resolv.conf, are had by their folder.  Unix sockets can be connected to anywhere,
and descriptors that are open stay what they are.  Only the file system is restricted: to dial out,
and to listen, is the daemon's work.
"""

import os
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from enum import Flag, auto
from functools import reduce
from importlib.util import find_spec
from operator import or_
from pathlib import Path

from gvproxy.config import Config
from gvproxy.errors import StartError
from gvproxy.sandbox.missing import MissingError, library


class Use(Flag):
    """What can be done in a folder, and in those below."""

    READ = auto()
    WRITE = auto()
    """Files that are there."""
    SOCKETS = auto()
    """Make them."""
    REMOVE = auto()
    KEEP = auto()
    """Make files, and put them in the place of others."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A folder or file, and its use; what is not there has none."""

    path: Path
    use: Use


PUBLISH = Use.SOCKETS | Use.REMOVE

_SYSTEM = (
    *("/usr", "/lib", "/lib32", "/lib64", "/etc", "/nix/store", "/gnu/store"),
    # Where resolv.conf may lead to, now or after a VPN has come up.
    *("/run/systemd/resolve", "/run/NetworkManager", "/run/resolvconf", "/run/connman"),
    *("/run/netconfig", "/run/nscd", "/var/db/nscd", "/mnt/wsl"),
    # What libraries ask of the kernel.
    *("/proc/self", "/proc/sys", "/proc/meminfo", "/proc/stat", "/sys/devices/system/cpu"),
    *("/dev/urandom", "/dev/random"),
)
_FOLLOWED = (Path("/etc/resolv.conf"), Path("/etc/hosts"))

_ABI = 8
"""Of Landlock, whose rights are restricted: the next one's is to connect to unix sockets.

Of its scopes that of abstract unix sockets is left out, where systemd's may be.
"""

_pinned: list[int] = []
"""Folders of /proc are made anew, and are no longer the rule's, when nobody has them open."""


def rules(config: Config) -> list[Rule]:
    """Return what a daemon of this configuration needs; raises StartError."""
    found = [Rule(path, Use.READ) for path in (*map(Path, _SYSTEM), *_code(), *_targets())]
    found.append(Rule(Path(os.devnull), Use.READ | Use.WRITE))
    for folder in config.allow_paths:
        if not os.path.isdir(folder):
            raise StartError(f"-allow-path {folder}: there is no such folder")
        found.append(Rule(folder, Use.READ | PUBLISH))
    found += (Rule(folder, PUBLISH) for folder in _published(config))
    if config.pid_file is not None:
        found += (Rule(config.pid_file, Use.READ), Rule(config.pid_file.parent, Use.REMOVE))
    if config.state_dir is not None:
        found.append(Rule(config.state_dir, Use.READ | Use.WRITE | Use.REMOVE | Use.KEEP))
    return found


def _code() -> list[Path]:
    """Return where modules are that are not loaded yet, asyncssh's 200 among them."""
    packages = (find_spec(name) for name in ("gvproxy", "taplink"))
    places = (place for spec in packages if spec for place in spec.submodule_search_locations or ())
    paths = map(os.path.realpath, (sys.prefix, sys.base_prefix, *filter(None, sys.path), *places))
    # Not the folder that the daemon was started in, through which `python -m` looks.
    others = {os.path.realpath("."), "/"}
    home = Path(os.path.expanduser("~")).resolve()
    return [Path(path) for path in paths if path not in others and not home.is_relative_to(path)]


def _targets() -> list[Path]:
    """Return the folders that links such as /etc/resolv.conf lead to."""
    targets = (path.resolve().parent for path in _FOLLOWED if path.is_symlink())
    return [path for path in targets if path != Path("/")]


def _published(config: Config) -> list[Path]:
    """Return where unix sockets are, or may come to be."""
    ends = (*config.listen, *config.services, *(one.endpoint for one in config.interfaces))
    paths = [one.path for one in ends if one.path]
    paths += (
        one.local.removeprefix("unix://") for one in config.forwards if one.protocol == "unix"
    )
    folders = [Path(path).absolute().parent for path in paths]
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    user = f"/run/user/{os.getuid()}"
    return [
        *folders,
        *map(Path, ("/tmp", os.environ.get("TMPDIR") or "/tmp", user, runtime or user)),
    ]


def explain(rules: Iterable[Rule], path: Path, use: Use) -> str:
    """Return what a user can do about a path that no rule has for this use, else nothing."""
    real = Path(os.path.realpath(path))
    if any(use in rule.use and real.is_relative_to(os.path.realpath(rule.path)) for rule in rules):
        return ""
    return f"; -allow-path {real.parent} opens that folder to gvproxy"


def landlock(rules: Iterable[Rule]) -> Callable[[], None]:
    """Return what has Landlock enforce the rules; raises MissingError."""
    with library("landlockpy"):
        import landlockpy
        from landlockpy import AccessFS, AccessNet, RestrictFlag, Ruleset, Scope
    rights = {
        Use.READ: AccessFS.READ_FILE | AccessFS.READ_DIR,
        Use.WRITE: AccessFS.WRITE_FILE | AccessFS.TRUNCATE,
        Use.SOCKETS: AccessFS.MAKE_SOCK,
        Use.REMOVE: AccessFS.REMOVE_FILE,
        Use.KEEP: AccessFS.MAKE_REG,
    }
    of_files = AccessFS.READ_FILE | AccessFS.WRITE_FILE | AccessFS.TRUNCATE
    try:
        ruleset = Ruleset(
            handled_fs=landlockpy.fs_for_abi(_ABI), handled_net=AccessNet.NONE, scoped=Scope.SIGNAL
        )
    except landlockpy.UnsupportedError:
        raise MissingError("the kernel has none") from None
    with suppress(FileNotFoundError):
        _pinned.append(os.open("/proc/self", os.O_PATH | os.O_CLOEXEC))
    for rule in rules:
        access = reduce(or_, (right for use, right in rights.items() if use in rule.use))
        if not os.path.isdir(rule.path):
            access &= of_files
        with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            ruleset.allow_path(rule.path, access)

    def apply() -> None:
        with ruleset:
            ruleset.restrict(RestrictFlag.TSYNC)

    return apply
