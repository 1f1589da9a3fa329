"""The list of mutations fits the code."""

from .table import ROOT, mutations


def test_each_applies_in_one_place() -> None:
    for mutation in mutations():
        assert mutation.new != mutation.old
        count = (ROOT / mutation.file).read_text().count(mutation.old)
        assert count == 1, f"{count} times: {mutation}"


def test_each_stands_there_once() -> None:
    found = mutations()
    assert len({(m.file, m.old, m.new) for m in found}) == len(found) >= 40
