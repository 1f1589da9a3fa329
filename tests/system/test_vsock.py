"""vsock, which is only ever opened inside a machine of ours: both programs over its loopback.

The machine itself is the host there, and a namespace in it the guest.
"""

import os
import time

import pytest

from tests.lab import vmpython
from tests.lab.network import World
from tests.lab.programs import GATEWAY, HOST
from tests.lab.vm import Vm, needs_vm

pytestmark = [pytest.mark.root, pytest.mark.system, needs_vm, pytest.mark.timeout(300)]

MODULES = (
    "net/vmw_vsock/vsock",
    "net/vmw_vsock/vmw_vsock_virtio_transport_common",
    "net/vmw_vsock/vsock_loopback",
    "drivers/net/tun",
)
SIZE = 100_000_000 if os.environ.get("FULL") else 20_000_000
PORT = 9000
GUEST = "nsenter -t $(cat /tmp/guest) -n"
"""Before a command that the guest runs."""


def test_both_programs_over_vsock(world: World) -> None:
    files = vmpython.files()
    with Vm(world.host, world.folder, modules=MODULES, files=files, memory=1536) as vm:
        start(vm)
        assert "2 packets received" in vm.run(f"{GUEST} ping -c 2 -i 0.2 {GATEWAY}")
        assert f"Address: {HOST}" in vm.run(f"{GUEST} nslookup host.containers.internal")
        vm.run(f"head -c {SIZE} /dev/urandom >/tmp/data")
        digest = sha256(vm, "/tmp/data")
        vm.run("mkfifo /tmp/open")  # a standard input that never ends, at whose end nc would leave
        guest, host = f"{GUEST} nc {HOST} {PORT}", f"nc -l -p {PORT}"
        up = transfer(vm, f"{guest} </tmp/data", f"{host} <>/tmp/open >/tmp/up")
        assert sha256(vm, "/tmp/up") == digest
        vm.run("rm /tmp/up")
        down = transfer(vm, f"{guest} <>/tmp/open >/tmp/down", f"{host} </tmp/data")
        assert sha256(vm, "/tmp/down") == digest
        print(f"\nover vsock, emulated: {up:.0f} MB/s up, {down:.0f} MB/s down")
        assert "Traceback" not in vm.run("cat /tmp/gvproxy.log /tmp/agent.log")


def start(vm: Vm) -> None:
    """Start both programs at their defaults, but for who the host is: CID 1 is the machine."""
    vm.run("mkdir -p /dev/net /run; [ -e /dev/net/tun ] || mknod /dev/net/tun c 10 200")
    vm.run(f"({vmpython.command('gvproxy.__main__')} >/tmp/gvproxy.log 2>&1 &)")
    wait_for(vm, "listening at vsock://:1024", "/tmp/gvproxy.log")
    wait_for(vm, "is ready", "/tmp/gvproxy.log")
    vm.run("(unshare -n sh -c 'echo $$ >/tmp/guest; exec sleep 100000' &)")
    wait_for(vm, ".", "/tmp/guest")
    agent = vmpython.command("vsock_tap.__main__")
    vm.run(f'({GUEST} sh -c "{agent} -url vsock://1:1024/connect" >/tmp/agent.log 2>&1 &)')
    wait_for(vm, "names are looked up at", "/tmp/agent.log")
    wait_for(vm, "guest 0 has come (taplink/1, csum,tso4,tso6)", "/tmp/gvproxy.log")


def wait_for(vm: Vm, text: str, log: str) -> None:
    again = f"for i in $(seq 600); do grep -q '{text}' {log} && break; sleep 0.1; done"
    vm.run(f"{again}; grep '{text}' {log} || {{ tail -n 5 {log}; false; }}", timeout=90)


def transfer(vm: Vm, client: str, server: str) -> float:
    """Run both of them until they have ended; return MB/s."""
    vm.run("rm -f /tmp/served")
    vm.run(f"({{ {server}; touch /tmp/served; }} &)")
    vm.run(f"until netstat -ltn | grep -q :{PORT}; do sleep 0.1; done")
    began = time.monotonic()
    vm.run(f"{client}; until [ -e /tmp/served ]; do sleep 0.1; done", timeout=100)
    return SIZE / 1e6 / (time.monotonic() - began)


def sha256(vm: Vm, path: str) -> str:
    return vm.run(f"sha256sum {path}", timeout=120).split()[0]
