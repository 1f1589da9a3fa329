"""The packages, built once for all tests: plain, plain of the next release, and bundled."""

import importlib.util
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType

import pytest

from tests.lab.scratch import query

_RPM = Path(__file__).parents[2] / "packaging" / "rpm"


@dataclass(frozen=True)
class Repository:
    """A folder of packages, with dnf's metadata."""

    path: Path

    @cached_property
    def packages(self) -> Mapping[str, Path]:
        """The packages' files by their names."""
        found = {}
        for path in self.path.glob("*/*.rpm"):
            if path.parent.name != "src":
                (name,) = query(path, "--queryformat", "%{NAME}")
                found[name] = path
        return found


def _build(folder: Path, release: int = 1, bundled: str = "") -> Repository:
    done = subprocess.run(
        ["env", f"BUNDLED={bundled}", _RPM / "build.sh", folder, str(release)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return Repository(folder)


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    return _build(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="session")
def next_release(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    return _build(tmp_path_factory.mktemp("next"), release=2)


@pytest.fixture(scope="session")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    return _build(tmp_path_factory.mktemp("bundled"), bundled="1")


@pytest.fixture(scope="session")
def wheels() -> ModuleType:
    """The module that knows what each part of the code imports."""
    spec = importlib.util.spec_from_file_location("wheels", _RPM / "wheels.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
