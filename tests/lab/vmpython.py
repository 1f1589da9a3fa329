"""What a virtual machine needs to run this project: Python as it runs here, and our packages.

Shared libraries are found by ldd, as the dynamic linker will find them.
"""

import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[2]
SITE = "site"
"""The folder with packages."""
_LEFT_OUT = {
    "ensurepip",
    "idlelib",
    "lib2to3",
    "site-packages",
    "test",
    "tests",
    "tkinter",
    "turtledemo",
}
_OPTIONAL = re.compile(r"extra\s*==")
_NOT_NEEDED = {"asyncssh"}
"""Large, and loaded only by who asks for ssh."""


def files() -> Mapping[str, bytes]:
    """Return all files by their path in the machine."""
    found = dict(_interpreter())
    for source in ("guest/vsock_tap", "host/gvproxy", "link/taplink"):
        found |= _tree(ROOT / source, f"{SITE}/{Path(source).name}")
    for name in _requirements("vsock-tap"):
        found |= dict(_distribution(name))
    found |= dict(_libraries(found.keys()))
    version = f"{metadata.metadata('vsock-tap')}".encode()
    return {path: source.read_bytes() for path, source in found.items()} | {
        f"{SITE}/vsock_tap.dist-info/METADATA": version
    }


def command(module: str) -> str:
    """Return the command that runs the program of a module inside."""
    return f"PYTHONPATH=/{SITE} {_executable()} -c 'import sys, {module} as m; sys.exit(m.main())'"


def _executable() -> Path:
    return Path(sys.executable).resolve()


def _interpreter() -> Iterator[tuple[str, Path]]:
    executable = _executable()
    yield str(executable).lstrip("/"), executable
    for name in ("stdlib", "platstdlib"):
        folder = Path(
            sysconfig.get_path(name, vars={"base": sys.base_prefix, "platbase": sys.base_prefix})
        )
        yield from _tree(folder, str(folder).lstrip("/")).items()


def _tree(folder: Path, where: str) -> dict[str, Path]:
    return {
        f"{where}/{path.relative_to(folder)}": path
        for path in folder.rglob("*")
        if path.is_file() and not _is_left_out(path.relative_to(folder))
    }


def _is_left_out(path: Path) -> bool:
    names = set(path.parts)
    return bool(_LEFT_OUT & names) or path.suffix == ".a" or path.name.startswith("_tkinter")


def _requirements(name: str) -> set[str]:
    """Return the distributions that one needs, and those that they need."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        for line in metadata.requires(waiting.pop()) or ():
            needed = re.split(r"[\s\[<>=!~;(]", line, maxsplit=1)[0].lower()
            if _OPTIONAL.search(line) or needed in found | _NOT_NEEDED:
                continue
            try:
                metadata.distribution(needed)
            except metadata.PackageNotFoundError:
                continue  # for another system, or another Python
            found.add(needed)
            waiting.append(needed)
    return found


def _distribution(name: str) -> Iterator[tuple[str, Path]]:
    for entry in metadata.files(name) or ():
        path = Path(str(entry.locate()))
        if ".." not in entry.parts and not _is_left_out(Path(entry)) and path.is_file():
            yield f"{SITE}/{entry}", path


def _libraries(paths: Iterable[str]) -> Iterator[tuple[str, Path]]:
    objects = [path for path in paths if ".so" in Path(path).name or "/bin/" in f"/{path}"]
    sources = {str(_executable()), *(str(_source(path)) for path in objects)}
    said = subprocess.run(["ldd", *sorted(sources)], capture_output=True, text=True, check=False)
    for library in set(re.findall(r"(?:=> |^\t)(/\S+) \(", said.stdout, re.M)):
        yield library.lstrip("/"), Path(library)


def _source(path: str) -> Path:
    """Return where a file of the machine comes from."""
    if not path.startswith(f"{SITE}/"):
        return Path("/") / path
    return Path(sysconfig.get_path("platlib")) / path.removeprefix(f"{SITE}/")
