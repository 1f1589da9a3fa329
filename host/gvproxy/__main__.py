"""The program's beginning, `gvproxy` or `python -m gvproxy`; `cli` is what it does."""

import sys

from taplink.beginning import begin


def main() -> int:
    """Run the command."""
    begin()
    from gvproxy import cli

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
