"""Which rules a configuration makes, and what is said of a path that none of them has."""

import os
from pathlib import Path

import pytest

from gvproxy.config import Forward, configure
from gvproxy.errors import StartError
from gvproxy.sandbox import files
from gvproxy.sandbox.files import PUBLISH, Rule, Use


def of(path: str, rules: list[Rule]) -> set[Use]:
    return {rule.use for rule in rules if rule.path == Path(path)}


def test_what_is_configured_has_rules() -> None:
    config = configure(
        listen=["unix:///srv/a/guest.sock", "tcp://127.0.0.1:0"],
        services="unix:///srv/b/api.sock",
        listen_vfkit="unixgram:///srv/c/vfkit.sock",
        forwards=[
            Forward("/srv/d/web.sock", "tcp://192.168.127.2:80", "unix"),
            Forward("127.0.0.1:8080", "192.168.127.2:80"),
        ],
        pid_file="/srv/e/pid",
        state_dir="/srv/f",
        log_file="/srv/g/log",
        pcap="/srv/g/pcap",
    )
    rules = files.rules(config)
    for folder in "abcd":
        assert of(f"/srv/{folder}", rules) == {PUBLISH}
    assert of("/srv/e", rules) == {Use.REMOVE}
    assert of("/srv/e/pid", rules) == {Use.READ}
    assert of("/srv/f", rules) == {Use.READ | Use.WRITE | Use.REMOVE | Use.KEEP}
    assert not any(rule.path.is_relative_to("/srv/g") for rule in rules)  # they are open already
    assert of("/tmp", rules) == {PUBLISH}


def test_folders_of_the_user_are_not_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where modules are looked for there."""
    inside = tmp_path / "inside"
    inside.mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(inside)
    for place in ("", str(inside), str(tmp_path)):
        monkeypatch.syspath_prepend(place)
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    rules = files.rules(configure())
    assert of(str(tmp_path / "modules"), rules) == {Use.READ}
    assert not of(str(inside), rules)
    assert not of(str(tmp_path), rules)
    assert not of("/", rules)


def test_the_runtime_folder_of_the_user_is_for_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/mine")
    rules = files.rules(configure())
    assert of("/run/mine", rules) == of(f"/run/user/{os.getuid()}", rules) == {PUBLISH}


def test_an_allowed_path_has_to_be_there(tmp_path: Path) -> None:
    (rule,) = (
        one for one in files.rules(configure(allow_paths=[str(tmp_path)])) if one.path == tmp_path
    )
    assert rule.use == Use.READ | PUBLISH
    with pytest.raises(StartError, match=r"^-allow-path /nonexistent: there is no such folder$"):
        files.rules(configure(allow_paths=["/nonexistent"]))


def test_a_path_without_a_rule_is_explained(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "open")
    rules = [Rule(tmp_path / "open", Use.READ), Rule(tmp_path / "run", PUBLISH)]
    hint = f"; -allow-path {tmp_path} opens that folder to gvproxy"
    assert files.explain(rules, tmp_path / "key", Use.READ) == hint
    assert files.explain(rules, tmp_path / "open/key", Use.READ) == ""
    assert files.explain(rules, tmp_path / "link/key", Use.READ) == ""
    assert files.explain(rules, tmp_path / "run/sock", Use.SOCKETS) == ""
    assert files.explain(rules, tmp_path / "run/key", Use.READ) != ""
    assert files.explain(rules, tmp_path / "open/sock", Use.SOCKETS) != ""
    assert files.explain(rules, tmp_path / "open/../key", Use.READ) == hint
