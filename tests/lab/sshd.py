"""Debian's sshd in a namespace, with a key of its own, for one user: whoever runs the tests."""

import contextlib
import getpass
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.lab.namespace import Namespace
from tests.lab.process import Process

USER = getpass.getuser()
SSHD = "/usr/sbin/sshd"  # it wants an absolute path: it executes itself again

_CONFIG = """\
ListenAddress 0.0.0.0
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/key.pub
PidFile none
StrictModes no
UsePAM no
PermitRootLogin yes
PasswordAuthentication no
"""


class Sshd:
    """Whoever has `key` may log in; `run` it as often as you like."""

    def __init__(self, folder: Path) -> None:
        self.key = folder / "key"
        self._config = folder / "sshd_config"
        self._config.write_text(_CONFIG.format(folder=folder))
        for name in ("key", "host_key"):
            keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
            subprocess.run(keygen, check=True)

    @contextlib.contextmanager
    def run(self, machine: Namespace) -> Iterator[Process]:
        """Run it meanwhile; at the end its sessions are killed with it, as when power fails."""
        machine.run("mkdir", "-p", "/run/sshd")  # where it locks its unprivileged half in
        own = ["unshare", "--pid", "--fork", "--kill-child"]
        process = machine.start("sshd", *own, SSHD, "-D", "-e", "-f", self._config)
        try:
            process.wait_for("Server listening")
            yield process
        finally:
            # It is the first of its namespace of processes, which ends with it.
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
            os.kill(int(children), signal.SIGKILL)
            process.wait(10)
