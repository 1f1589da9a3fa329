"""What the documents refer to exists."""

import re
from pathlib import Path

import pytest

_ROOT = Path(__file__).parent.parent
_ALL = [_ROOT / "README.md", *sorted((_ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("name", ["tcp.md", "design.md"])
def test_tests_that_are_named_exist(name: str) -> None:
    text = (_ROOT / "docs" / name).read_text()
    named = set(re.findall(r"`(test_\w+)`", text))
    sources = "".join(path.read_text() for path in (_ROOT / "tests").rglob("test_*.py"))
    modules = {path.stem for path in (_ROOT / "tests").rglob("test_*.py")}
    assert named <= set(re.findall(r"def (test_\w+)", sources)) | modules


@pytest.mark.parametrize("document", _ALL, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target, heading in re.findall(r"\]\((?!\w+:)([^)#]*)#?([^)]*)\)", document.read_text()):
        path = document.parent / target if target else document
        assert path.exists(), target
        if heading:
            assert heading in _headings(path), target


@pytest.mark.parametrize("document", _ALL, ids=lambda path: path.name)
def test_packaged_files_that_are_named_exist(document: Path) -> None:
    for name in re.findall(r"\bpackaging/[\w./@-]*\w", document.read_text()):
        assert (_ROOT / name).exists(), name


def _headings(document: Path) -> set[str]:
    """Return the names by which links lead to its headings, as GitHub makes them."""
    found = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in found}
