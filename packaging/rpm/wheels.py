"""Fetches the wheels of the bundled packages: wheels.py FOLDER.

Each of our three packages gets what its own code imports, as pyproject.toml has it.  Into FOLDER go
wheels.tar.gz and bundled.macros, which tells the spec what is in there.
"""

import ast
import functools
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[2]
PYTHON = "/usr/bin/python3"
"""What %{python3} is, for which they shall be."""
PARTS = ("link", "guest", "host")
OPTIONAL = frozenset({"landlockpy", "pyprctl", "pyseccomp", "uvloop"})
"""Programs do without them, and noarch packages may have to: uvloop is compiled."""
_NAME = re.compile(r"[\w.-]+")


def normal(name: str) -> str:
    """Return a distribution's name as python3dist() spells it."""
    return re.sub("[-_.]+", "-", name).lower()


@functools.cache
def needs(part: str) -> dict[str, str]:
    """Return the requirements of pyproject.toml that a part's code imports, by normal names."""
    names = {
        normal(name)
        for module in _imports(part)
        for name in packages_distributions().get(module, ())
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (*project["dependencies"], *project["optional-dependencies"]["sandbox"])
    required = {normal(_NAME.match(line)[0]): line for line in lines}  # type: ignore[index]
    return {name: line for name, line in required.items() if name in names}


def _imports(part: str) -> set[str]:
    found: set[str] = set()
    for path in (ROOT / part).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                found.add(node.module or "")
    return {name.partition(".")[0] for name in found}


def _fetch(part: str, folder: Path, version: str) -> None:
    """Put the wheels of a part, and what they need in turn, into `folder`."""
    compiled = part == "host"
    wanted = (line for name, line in needs(part).items() if compiled or name not in OPTIONAL)
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
            *("--only-binary=:all:", "--python-version", version, "--dest", folder),
            *(() if compiled else ("--platform", "any")),
            *wanted,
        ],
        check=True,
    )


def main(folder: Path) -> None:
    """Fetch them; bundled.macros is there only if all went well."""
    ask = "import sys; print('%d.%d' % sys.version_info[:2])"
    version = subprocess.check_output([PYTHON, "-I", "-c", ask], text=True).strip()
    macros = ""
    with tarfile.open(folder / "wheels.tar.gz", "w:gz", compresslevel=1) as archive:
        for part in PARTS:
            wheels = folder / part
            _fetch(part, wheels, version)
            archive.add(wheels, f"wheels/{part}")
            macros += f"%bundled_{part} \\\n"
            for wheel in sorted(wheels.iterdir()):
                name, number, *_ = wheel.name.split("-")
                macros += f"Provides: bundled(python3dist({normal(name)})) = {number} \\\n"
            macros += "%{nil}\n"
            shutil.rmtree(wheels)
    (folder / "bundled.macros").write_text(macros)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
