"""The units have what they share in common, where systemd has no place for it."""

import difflib
from pathlib import Path

_UNITS = Path(__file__).parents[2] / "packaging/systemd"
_OWN = ("Description=", "After=", "BindsTo=", "ExecStart=", "WantedBy=", "# For a tap that")


def test_a_tap_of_others_is_served_with_no_more_rights() -> None:
    """The template is the service, but for which tap it takes and when it starts."""
    plain, template = (
        (_UNITS / name).read_text().splitlines()
        for name in ("vsock-tap.service", "vsock-tap@.service")
    )
    differ = [line for line in difflib.ndiff(plain, template) if line.startswith(("- ", "+ "))]
    assert differ
    assert [line for line in differ if not line[2:].startswith(_OWN)] == []
