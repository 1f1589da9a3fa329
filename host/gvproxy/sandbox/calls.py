"""Which system calls the daemon can make once it runs, and seccomp, which sees to that.

What is not here fails with EPERM: an attack as well as an oversight of ours, which should be an
error and not a death.  There is no way to start a program, or a process, to look into others, or to
change what the machine has mounted, loaded or configured; a thread can be made.

libseccomp's own binding is taken where a distribution has it, pyseccomp elsewhere; both have one
API.
"""

import errno
import os
import platform
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

from gvproxy.sandbox.missing import MissingError, library

_ALLOWED = """
    access close close_range dup dup2 dup3 faccessat faccessat2 fadvise64 fallocate fchmod fcntl
    fcntl64 fdatasync flock fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate
    ftruncate64 getcwd getdents getdents64 ioctl lseek _llseek lstat lstat64 mkdir mkdirat
    newfstatat open openat pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readlink
    readlinkat readv rename renameat renameat2 sendfile sendfile64 stat stat64 statfs statfs64
    statx umask unlink unlinkat write writev

    accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg
    recvmsg send sendmmsg sendmsg sendto setsockopt shutdown socketpair

    clock_nanosleep clock_nanosleep_time64 epoll_create epoll_create1 epoll_ctl epoll_pwait
    epoll_pwait2 epoll_wait eventfd eventfd2 nanosleep pipe pipe2 poll ppoll ppoll_time64
    pselect6 pselect6_time64 select _newselect timerfd_create timerfd_settime

    brk madvise membarrier memfd_create mincore mlock mmap mmap2 mprotect mremap munlock munmap

    arch_prctl exit exit_group futex futex_time64 futex_waitv get_robust_list gettid restart_syscall
    rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigreturn rt_sigtimedwait
    sched_getaffinity sched_yield set_robust_list set_tid_address sigaltstack sigreturn

    capget clock_getres clock_getres_time64 clock_gettime clock_gettime64 getcpu getegid geteuid
    getgid getgroups getitimer getpgrp getpid getppid getrandom getresgid getresuid getrlimit
    getrusage gettimeofday getuid setitimer sysinfo time times ugetrlimit uname
""".split()  # noqa: SIM905
"""Of files, sockets, waiting, memory, threads and signals, and what and when it is.

`socket`, `clone`, `prctl`, `prlimit64` and `kill` depend on their arguments (`rules`).
"""

_ABSENT = ("clone3", "io_uring_enter", "io_uring_register", "io_uring_setup")
"""ENOSYS has libraries do without.

`clone3` hides its flags from seccomp; a ring's calls are made without it.
"""

_FAMILIES = ("AF_UNIX", "AF_INET", "AF_INET6", "AF_NETLINK", "AF_VSOCK")
"""netlink is for names, whose order depends on the host's addresses."""

_CLONE_THREAD = 0x00010000
_PRCTLS = (
    15,  # PR_SET_NAME, of threads
    0x53564D41,  # PR_SET_VMA, by which glibc names its memory
    *(3, 21, 23, 39),  # PR_GET_DUMPABLE, _SECCOMP, CAPBSET_READ, PR_GET_NO_NEW_PRIVS
)
_OPTIMIZE_TREE = 2
"""Of seccomp_attr_set(3): a binary search, not a list from top to bottom."""


Condition = tuple[int, str, int, int]
"""An argument's number, the comparison, and what it takes: as libseccomp's `Arg` has them."""


def rules() -> Iterator[tuple[str, Condition | None]]:
    """Yield what is allowed: a call's name, and of which argument that depends."""
    for name in _ALLOWED:
        yield name, None
    for family in _FAMILIES:
        if hasattr(socket, family):
            yield "socket", (0, "EQ", getattr(socket, family), 0)
    # Linux on s390 has the first two arguments the other way round (clone(2)).
    flags = 1 if platform.machine().startswith("s390") else 0
    yield "clone", (flags, "MASKED_EQ", _CLONE_THREAD, _CLONE_THREAD)
    for option in _PRCTLS:
        yield "prctl", (0, "EQ", option, 0)
    yield "prlimit64", (0, "EQ", 0, 0)
    for name in ("kill", "tgkill"):  # abort(3), and a signal to itself
        yield name, (0, "EQ", os.getpid(), 0)


def no_rings() -> Callable[[], None]:
    """Return what keeps libuv from having a ring of io_uring's; raises MissingError.

    To be applied before there is a loop: what it has by then it goes on using.
    """
    with library("libseccomp"):
        seccomp = _library()
        return partial(_load, _filter(seccomp, seccomp.ALLOW, ()))


def seccomp() -> Callable[[], None]:
    """Return what allows the calls of `rules` only, for all threads; raises MissingError."""
    with library("libseccomp"):
        seccomp = _library()
        return partial(_load, _filter(seccomp, seccomp.ERRNO(errno.EPERM), rules()))


def _library() -> Any:
    try:
        import seccomp
    except ImportError:
        import pyseccomp as seccomp
    return seccomp


def _load(made: Any) -> None:
    try:
        made.load()
    except OSError as error:
        none = error.errno in (errno.EINVAL, errno.ENOSYS)
        raise MissingError("the kernel has none" if none else str(error.strerror)) from None
    except RuntimeError as error:  # as libseccomp's own binding has it
        raise MissingError(str(error)) from None


def _filter(seccomp: Any, default: int, allowed: Iterable[tuple[str, Condition | None]]) -> Any:
    """Return a filter in which _ABSENT is absent; `seccomp` is either library."""
    made = seccomp.SyscallFilter(default)
    made.set_attr(seccomp.Attr.ACT_BADARCH, seccomp.ERRNO(errno.EPERM))
    made.set_attr(seccomp.Attr.CTL_TSYNC, 1)
    with suppress(OSError, RuntimeError, AttributeError):  # since libseccomp 2.5
        made.set_attr(seccomp.Attr.CTL_OPTIMIZE, _OPTIMIZE_TREE)
        # Kernels before 5.16 slow the whole process down, against code of others in it.
        made.set_attr(seccomp.Attr.CTL_SSB, 1)

    def add(action: int, name: str, *arguments: object) -> None:
        with suppress(ValueError):  # no such call: its own binding says so, pyseccomp returns -1
            if seccomp.resolve_syscall(seccomp.Arch.NATIVE, name) != -1:
                made.add_rule(action, name, *arguments)

    for name, condition in allowed:
        arguments = []
        if condition is not None:
            number, comparison, *data = condition
            arguments.append(seccomp.Arg(number, getattr(seccomp, comparison), *data))
        add(seccomp.ALLOW, name, *arguments)
    for name in _ABSENT:
        add(seccomp.ERRNO(errno.ENOSYS), name)
    return made
