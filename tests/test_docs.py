"""What the documents refer to exists."""

import re
from pathlib import Path

import pytest

_ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", ["tcp.md", "design.md"])
def test_tests_that_are_named_exist(name: str) -> None:
    text = (_ROOT / "docs" / name).read_text()
    named = set(re.findall(r"`(test_\w+)`", text))
    sources = "".join(path.read_text() for path in (_ROOT / "tests").rglob("test_*.py"))
    modules = {path.stem for path in (_ROOT / "tests").rglob("test_*.py")}
    assert named <= set(re.findall(r"def (test_\w+)", sources)) | modules
