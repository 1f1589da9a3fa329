"""Flags: Go's ways to write them, and one line with status 1 for what is wrong."""

import logging
import os
import subprocess
import sys
from importlib.metadata import version

import pytest

from taplink import flags


@pytest.fixture
def parser() -> flags.Parser:
    parser = flags.Parser("program", "What it does.", "What else is to be said.")
    parser.add_argument("--name", type=flags.checked(_name), default="nobody", help="a name")
    parser.add_argument("--number", type=flags.integer, default=0, help="a number")
    parser.add_switch("--debug", "say more")
    return parser


def _name(text: str) -> str:
    if not text.isalnum():
        raise ValueError(f"no name: {text}")
    return text


@pytest.mark.parametrize(
    "arguments",
    [
        ["-number", "4000", "-name", "one", "-debug"],
        ["--number", "4000", "--name", "one", "--debug"],
        ["-number=4000", "-name=one", "-debug=true"],
        ["--number=4000", "--name=one", "--debug=T"],
        ["-debug", "-number=+4000", "--name", "one"],
        ["-number", "1", "-number", "4000", "-name=one", "-debug=0", "-debug"],
    ],
)
def test_each_spelling(parser: flags.Parser, arguments: list[str]) -> None:
    values = parser.read(arguments)
    assert (values.number, values.name, values.debug) == (4000, "one", True)


def test_nothing_is_needed(parser: flags.Parser) -> None:
    values = parser.read([])
    assert (values.number, values.name, values.debug) == (0, "nobody", False)


@pytest.mark.parametrize("arguments", [["-number", "-1"], ["-number=-1"], ["--number", "-1"]])
def test_a_negative_number_is_no_flag(parser: flags.Parser, arguments: list[str]) -> None:
    assert parser.read(arguments).number == -1


@pytest.mark.parametrize("text", ["1", "t", "T", "true", "TRUE", "True"])
def test_true(parser: flags.Parser, text: str) -> None:
    assert parser.read([f"-debug={text}"]).debug is True


@pytest.mark.parametrize("text", ["0", "f", "F", "false", "FALSE", "False"])
def test_false(parser: flags.Parser, text: str) -> None:
    assert parser.read(["-debug", f"-debug={text}"]).debug is False


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-number", "big"], "-number: 'big' is no whole number"),
        (["-number", "1.5"], "-number: '1.5' is no whole number"),
        (["-number", "1_500"], "-number: '1_500' is no whole number"),
        (["-number", "٣"], "-number: '٣' is no whole number"),
        (["-number="], "-number: '' is no whole number"),
        (["-number", "9" * 5000], f"-number: '{'9' * 5000}' is no whole number"),
        (["-number"], "-number: expected one argument"),
        (["-debug=maybe"], "-debug: 'maybe' is neither true nor false"),
        (["-debug=yEs"], "-debug: 'yEs' is neither true nor false"),
        (["-name", "a b"], "-name: no name: a b"),
        (["-name", "a\nb\x1b[31m\udcff"], r"-name: no name: a\nb\x1b[31m\udcff"),
        (["-num", "1"], "unrecognized arguments: -num 1"),
        (["--num=1"], "unrecognized arguments: -num=1"),
        (["-n"], "unrecognized arguments: -n"),
        (["-help=me"], "-help/-h: ignored explicit argument 'me'"),
        (["-"], "unrecognized arguments: -"),
        (["stray"], "unrecognized arguments: stray"),
        (["line\none"], r"unrecognized arguments: line\none"),
    ],
)
def test_wrong_is_one_line_and_status_1(
    parser: flags.Parser, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        parser.read(arguments)
    assert end.value.code == 1
    assert capsys.readouterr() == ("", f"program: {said}\n")


def test_an_error_ends_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        flags.fail("program", OSError("no such thing:\r\n\N{SNOWMAN}"))
    assert end.value.code == 1
    assert capsys.readouterr() == ("", "program: no such thing:\\r\\n\N{SNOWMAN}\n")


def test_an_expected_error_is_its_text(capsys: pytest.CaptureFixture[str]) -> None:
    log = logging.getLogger("program")
    with pytest.raises(SystemExit) as end, flags.errors_in_one_line("program", log, KeyError):
        raise KeyError("no such\nthing")
    assert end.value.code == 1
    assert capsys.readouterr() == ("", "program: 'no such\\nthing'\n")


@pytest.mark.parametrize("debug", [False, True])
def test_an_internal_error_is_one_line_and_its_traceback_is_for_debug(
    debug: bool, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    log = logging.getLogger("program")
    with (
        caplog.at_level(logging.DEBUG if debug else logging.INFO, "program"),
        pytest.raises(SystemExit) as end,
        flags.errors_in_one_line("program", log, OSError),
    ):
        raise RuntimeError("two\nlines")
    assert end.value.code == 1
    said = "internal error (RuntimeError: two\\nlines); -debug shows where"
    assert capsys.readouterr() == ("", f"program: {said}\n")
    assert ("Traceback" in caplog.text) is debug


def test_without_an_error_nothing_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with flags.errors_in_one_line("program", logging.getLogger("program"), OSError):
        pass
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("flag", ["-version", "--version", "-v"])
def test_version(parser: flags.Parser, flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parser.read([flag])
    assert not end.value.code
    assert capsys.readouterr() == (f"program version {version('vsock-tap')}\n", "")


@pytest.mark.parametrize("flag", ["-help", "--help", "-h"])
def test_help(parser: flags.Parser, flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parser.read([flag])
    assert not end.value.code
    shown, err = capsys.readouterr()
    assert err == ""
    assert "What it does." in shown
    for name in ("name NAME", "number NUMBER", "debug [true|false]", "help", "version"):
        assert f"--{name}" in shown
    assert shown.endswith("\nFlags take one dash or two.  What else is to be said.\n")


_SAYS = """
import sys
from taplink import flags
if len(sys.argv) == 1:
    flags.say("program", "x")
else:
    flags.Parser("program", "x").read(sys.argv[1:])
"""


@pytest.mark.parametrize("argument", [[], ["-help"], ["-version"]])
@pytest.mark.parametrize("unbuffered", [[], ["-u"]])
def test_output_that_nobody_takes(argument: list[str], unbuffered: list[str]) -> None:
    def run(output: int) -> tuple[int, str]:
        command = [sys.executable, *unbuffered, "-c", _SAYS, *argument]
        done = subprocess.run(command, stdout=output, stderr=subprocess.PIPE, text=True)
        return done.returncode, done.stderr

    with open("/dev/full", "wb") as full:
        assert run(full.fileno()) == (1, "program: standard output: No space left on device\n")
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb"):
        assert run(writing) == (1, "program: standard output: Broken pipe\n")
