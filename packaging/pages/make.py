"""Makes the manual pages and the shells' completions of the programs' own flags.

`make.py FOLDER` writes them into FOLDER, in folders named as their places under /usr/share.  What
the flags don't tell is in the .inc files beside this one, in the form of help2man's --include.
"""

import argparse
import sys
from importlib.metadata import version
from pathlib import Path

import shtab
from argparse_manpage.manpage import Manpage

import gvproxy.cli
import vsock_tap.cli

HERE = Path(__file__).parent
_COMPLETED = {
    "FILE": shtab.FILE,
    "PATH": shtab.FILE,
    "DIR": shtab.DIRECTORY,
}
"""What a flag's value is, by its name in the help."""


def _as_typed(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Show the flags as people type them: with one dash, and switches without a value."""
    for action in parser._actions:
        action.option_strings = [f"-{flag.lstrip('-')}" for flag in action.option_strings]
        if action.nargs == "?":
            action.nargs = 0
        if action.metavar in _COMPLETED:
            action.complete = _COMPLETED[action.metavar]  # type: ignore[attr-defined]
    parser.description = parser.epilog = None  # the pages say it in their own words
    return parser


def _page(parser: argparse.ArgumentParser, section: int, what: str) -> str:
    page = Manpage(parser)
    page.section = section
    page.description = what
    page.source = f"vsock-tap {version('vsock-tap')}"
    page.manual = "User Commands" if section == 1 else "System Administration"
    page.parse_include(HERE / f"{parser.prog}.{section}.inc")
    return str(page)


def main(folder: Path) -> None:
    for parser, section, what in (
        (gvproxy.cli.make_parser(), 1, "network for virtual machines, on the host"),
        (vsock_tap.cli.make_parser(), 8, "network for this virtual machine, from its host"),
    ):
        name = _as_typed(parser).prog
        for path, text in {
            f"man/man{section}/{name}.{section}": _page(parser, section, what),
            f"bash-completion/completions/{name}": shtab.complete(parser, shell="bash"),
            f"zsh/site-functions/_{name}": shtab.complete(parser, shell="zsh"),
        }.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
