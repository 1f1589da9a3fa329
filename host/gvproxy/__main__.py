"""The program's beginning, `gvproxy` or `python -m gvproxy`; `cli` is what it does."""

import signal
import sys

from taplink import standard


def main() -> int:
    """Run the command; until the daemon handles it, Ctrl-C ends the process without a word."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # before the modules that take their time
    standard.open_closed()  # before anything else is opened
    from gvproxy import cli

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
