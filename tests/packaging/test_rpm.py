"""The RPMs hold what they should, want what they import, and come and go without a trace."""

import re
import subprocess
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest

from tests.lab.scratch import Root, python_version, query
from tests.packaging.conftest import Repository

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

_ROOT = Path(__file__).parents[2]
_PARTS = {"python3-taplink": "link", "vsock-tap": "guest", "gvproxy-host": "host"}
_FILES = {
    "python3-taplink": {"{sitelib}/taplink/endpoint.py", "{sitelib}/{distinfo}/METADATA"},
    "vsock-tap": {
        "{sitelib}/vsock_tap/agent.py",
        "/usr/bin/vsock-tap",
        "/etc/vsock-tap.conf",
        "/usr/lib/systemd/system/vsock-tap.service",
        "/usr/lib/systemd/system/vsock-tap@.service",
        "/usr/lib/systemd/system-preset/90-vsock-tap.preset",
        "/usr/lib/systemd/network/10-vsock-tap.network",
        "/usr/lib/modules-load.d/vsock-tap.conf",
        "/usr/lib/NetworkManager/conf.d/90-vsock-tap.conf",
        "/usr/share/man/man8/vsock-tap.8.gz",
        "/usr/share/bash-completion/completions/vsock-tap",
        "/usr/share/zsh/site-functions/_vsock-tap",
    },
    "gvproxy-host": {
        "{sitelib}/gvproxy/daemon.py",
        "{sitelib}/gvproxy/api/openapi.json",
        "/usr/bin/gvproxy",
        "/etc/gvproxy/example.yaml",
        "/usr/lib/systemd/system/gvproxy@.service",
        "/usr/lib/systemd/system/gvproxy@.socket",
        "/usr/lib/systemd/user/gvproxy@.service",
        "/usr/lib/systemd/system-preset/90-gvproxy.preset",
        "/usr/lib/systemd/user-preset/90-gvproxy.preset",
        "/usr/share/man/man1/gvproxy.1.gz",
        "/usr/share/bash-completion/completions/gvproxy",
        "/usr/share/zsh/site-functions/_gvproxy",
    },
}
_IMPORT_ALL = """
import importlib, pkgutil, sys
sys.path[:0] = sys.argv[2:]
package = importlib.import_module(sys.argv[1])
for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
    importlib.import_module(module.name)
    print(module.name)
"""


def _requires(package: Path, kind: str = "--requires") -> set[str]:
    return {line for line in query(package, kind) if line.startswith("python3-")}


def _as_packages(wheels: ModuleType, part: str, *, optional: bool) -> set[str]:
    """Return pyproject.toml's requirements of a part of the code, by Fedora's names."""
    found = set()
    for name, line in wheels.needs(part).items():
        if (name in wheels.OPTIONAL) is optional:
            extras, least = re.fullmatch(r"[\w-]+(?:\[(\w+)\])?>=([\d.]+)(?:;.*)?", line).groups()  # type: ignore[union-attr]
            found.add(f"python3-{name} >= {least}")
            found |= {f"python3-{extras}"} if extras else set()
    return found


@pytest.mark.parametrize("name", _PARTS)
def test_files(plain: Repository, name: str) -> None:
    sitelib = f"/usr/lib/python{python_version()}/site-packages"
    distinfo = f"vsock_tap-{version('vsock-tap')}.dist-info"
    expected = {path.format(sitelib=sitelib, distinfo=distinfo) for path in _FILES[name]}
    files = set(query(plain.packages[name], "--list"))
    assert expected <= files
    others = {path for part in _FILES if part != name for path in _FILES[part]}
    assert not files & {path.format(sitelib=sitelib, distinfo=distinfo) for path in others}


@pytest.mark.parametrize("name", _PARTS)
def test_the_version_sorts_before_the_release(plain: Repository, name: str) -> None:
    assert version("vsock-tap") == "0.1.0.dev0"
    assert query(plain.packages[name], "--queryformat", "%{VERSION}") == ["0.1.0~dev0"]


@pytest.mark.parametrize("name", _PARTS)
def test_a_package_requires_what_its_code_imports(
    plain: Repository, wheels: ModuleType, name: str
) -> None:
    package = plain.packages[name]
    assert query(package, "--queryformat", "%{ARCH}") == ["noarch"]
    (evr,) = query(package, "--queryformat", "%{VERSION}-%{RELEASE}")
    expected = _as_packages(wheels, _PARTS[name], optional=False)
    if name != "python3-taplink":
        expected.add(f"python3-taplink = {evr}")
    assert _requires(package) == expected
    weak = _as_packages(wheels, _PARTS[name], optional=True)
    if name == "python3-taplink":
        weak.add("python3-systemd")
    if name == "gvproxy-host":  # libseccomp's own binding, which Fedora has in pyseccomp's place
        weak = {one for one in weak if "pyseccomp" not in one} | {"python3-libseccomp"}
    assert _requires(package, "--recommends") == weak


@pytest.mark.parametrize("name", _PARTS)
def test_a_bundled_package_requires_the_interpreter_only(
    bundled: Repository, wheels: ModuleType, name: str
) -> None:
    package = bundled.packages[name]
    arch = query(package, "--queryformat", "%{ARCH}")
    assert (arch == ["noarch"]) is (name != "gvproxy-host")
    assert {line.partition(" ")[0] for line in _requires(package)} <= {"python3-taplink"}
    assert f"python(abi) = {python_version()}" in query(package, "--requires")
    provides = "\n".join(query(package, "--provides"))
    carried = set(re.findall(r"bundled\(python3dist\(([\w.-]+)\)\) = [\d.]+", provides))
    needed = set(wheels.needs(_PARTS[name]))
    assert needed - (carried if name == "gvproxy-host" else carried | wheels.OPTIONAL) == set()


@pytest.mark.parametrize("flavour", ["plain", "bundled"])
@pytest.mark.parametrize("name", _PARTS)
def test_no_macro_is_left_unexpanded(
    request: pytest.FixtureRequest, flavour: str, name: str
) -> None:
    package = request.getfixturevalue(flavour).packages[name]
    kinds = ("--info", "--list", "--scripts", "--triggers", "--requires", "--recommends")
    lines = query(package, *kinds, "--provides")
    assert "postinstall scriptlet" in "".join(lines) or name == "python3-taplink"
    assert [line for line in lines if "%" in line] == []


@pytest.mark.parametrize("flavour", ["plain", "bundled"])
def test_rpmlint_finds_nothing(request: pytest.FixtureRequest, flavour: str) -> None:
    folder = request.getfixturevalue(flavour).path
    done = subprocess.run([_ROOT / "packaging/rpm/lint.sh", folder], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_bundled_packages_run_and_leave_nothing(bundled: Repository, tmp_path: Path) -> None:
    needs = query(bundled.packages["gvproxy-host"], "--requires")
    root = Root(tmp_path, stubs=[name for name in needs if ".so." in name or "rtld" in name])
    before = root.files()
    root.dnf("install", "vsock-tap", "gvproxy-host", repository=bundled.path)
    for command in ("vsock-tap", "gvproxy"):
        ours = f"{command} version {version('vsock-tap')}\n"
        assert root.run(f"/usr/bin/{command}", "-version") == ours
        assert "-debug" in root.run(f"/usr/bin/{command}", "-help")
    # Each part has all that it imports in its own folders.
    for module, part in (("taplink", "link"), ("vsock_tap", "guest"), ("gvproxy", "host")):
        folders = [f"/usr/lib/vsock-tap/{folder}" for folder in (part, "link")]
        python = ("/usr/bin/python3", "-I", "-c", _IMPORT_ALL)
        assert len(root.run(*python, module, *folders).split()) > 5
    root.dnf("remove", "vsock-tap", "gvproxy-host", "python3-taplink")
    assert root.files() == before


def test_units_start_what_is_installed(bundled: Repository) -> None:
    for name in ("vsock-tap", "gvproxy-host"):
        files = query(bundled.packages[name], "--list")
        units = [path for path in files if "/systemd/" in path and path.endswith(".service")]
        assert units
        for unit in units:
            source = _ROOT / "packaging/systemd" / ("user" if "/user/" in unit else "")
            text = (source / Path(unit).name).read_text()
            started = re.findall(r"^Exec\w+=[-+!@:]*(\S+)", text, re.MULTILINE)
            assert set(started) & set(files)


def test_an_upgrade_keeps_settings_and_a_removal_all_else(
    plain: Repository, next_release: Repository, wheels: ModuleType, tmp_path: Path
) -> None:
    libraries = set.union(*(_requires(path) for path in plain.packages.values()))
    stubs = {name.replace(">=", "=") for name in libraries if "taplink" not in name}
    root = Root(tmp_path, stubs)
    before = root.files()

    root.dnf("install", "vsock-tap", "gvproxy-host", repository=plain.path)
    installed = root.files()
    assert sorted(root.systemctl_calls()) == [
        "--no-reload --global preset gvproxy@.service",
        "--no-reload preset gvproxy@.service gvproxy@.socket",
        "--no-reload preset vsock-tap.service vsock-tap@.service",
    ]
    settings = root.path / "etc/vsock-tap.conf"
    settings.write_text("debug = true\n")

    root.dnf("upgrade", repository=next_release.path)
    assert settings.read_text() == "debug = true\n"
    assert root.files() == installed
    assert sorted(root.systemctl_calls()) == [
        "daemon-reload",
        "daemon-reload",
        "try-restart gvproxy@*.service",
        "try-restart vsock-tap.service vsock-tap@*.service",
    ]

    root.dnf("remove", "vsock-tap", "gvproxy-host", "python3-taplink")
    assert root.files() - before == {"etc/vsock-tap.conf.rpmsave"}
    assert sorted(root.systemctl_calls()) == [
        "--no-reload --global disable gvproxy@.service",
        "--no-reload disable gvproxy@.service gvproxy@.socket",
        "--no-reload disable vsock-tap.service vsock-tap@.service",
        "daemon-reload",
        "daemon-reload",
        "stop gvproxy@*.service gvproxy@*.socket",
        "stop vsock-tap.service vsock-tap@*.service",
    ]
