"""The manual pages and completions have every flag, as it is typed, and nothing stale."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import gvproxy.cli
import vsock_tap.cli
from taplink.flags import Parser

_MAKE = Path(__file__).parents[2] / "packaging/pages/make.py"
_PARSERS = {"gvproxy": gvproxy.cli.make_parser(), "vsock-tap": vsock_tap.cli.make_parser()}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    subprocess.run([sys.executable, _MAKE, folder], check=True)
    return folder


def _flags(parser: Parser) -> set[str]:
    return {f"-{flag.lstrip('-')}" for action in parser._actions for flag in action.option_strings}


@pytest.mark.parametrize(("name", "section"), [("gvproxy", 1), ("vsock-tap", 8)])
def test_a_page_tells_every_flag(pages: Path, name: str, section: int) -> None:
    page = (pages / f"man/man{section}/{name}.{section}").read_text().replace(r"\-", "-")
    options = page[page.index(".SH OPTIONS") : page.index(".SH FILES")]
    # Bold at the beginning of a paragraph, several with a comma between them.
    told = set(re.findall(r"(?:^|, )\\fB(-[\w-]+)\\fR", options, re.MULTILINE))
    assert told == _flags(_PARSERS[name])
    headings = set(re.findall(r"^\.SH (.+)$", page, re.MULTILINE))
    assert headings >= {"NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "FILES", "EXIT STATUS"}


@pytest.mark.parametrize("name", _PARSERS)
def test_bash_completes_every_flag(pages: Path, name: str) -> None:
    script = pages / f"bash-completion/completions/{name}"
    # What bash does at the key Tab, after the command and one dash.
    completed = f"""
        source {script}
        COMP_WORDS=({name} -) COMP_CWORD=1 COMP_LINE='{name} -' COMP_POINT=${{#COMP_LINE}}
        $(complete -p {name} | sed -n 's/.*-F \\([^ ]*\\).*/\\1/p') {name} - {name}
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", completed], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == _flags(_PARSERS[name])


@pytest.mark.parametrize("name", _PARSERS)
def test_zsh_has_every_flag(pages: Path, name: str) -> None:
    script = (pages / f"zsh/site-functions/_{name}").read_text()
    assert script.startswith(f"#compdef {name}\n")
    told = set(re.findall(r"[\"{,*](-[A-Za-z][\w-]*)(?=[\[,}])", script))
    assert told == _flags(_PARSERS[name])
