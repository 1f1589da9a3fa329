"""Traces: what goes in and what must come out, one line each, after packetdrill.

    +0.1  < P. 1:1001 ack 1 win 65536 [nots]   a segment from the guest, and a batch of its own
          & .  1001:2001 ack 1                 another one in the same batch
          > .  1 ack 2001 win 1048576          the engine must send this, now
          ? received 2000                      the engine must tell its user this, now
          ! send 500                           its user makes a call (`Bench.call`)
          = snd_una 1                          a field of the connection, or `state`

`+t` is the time since the line before; timers in between go off at their own moments, and what they
cause must be listed.  What the engine does and no line expects is an error, and so is the wrong
order.  Sequence numbers count from each side's initial one, so the first byte is 1; `1:1001` is
payload and does not count SYN and FIN.  Windows are in bytes.  On `>` lines window and options are
compared where they are given.

Options: `mss N`, `ws N`, `sackok`, `ts` on SYNs, exactly these; elsewhere `nots`, `val N` and
`ecr N` (milliseconds since the trace began; the guest's is 0, which says nothing, where it is not
given), `sack A:B C:D`.
"""

import re
from enum import Enum

from gvproxy.tcp.connection import flags_name
from gvproxy.tcp.input import Segment
from gvproxy.tcp.seq import MASK, unwrap
from gvproxy.wire import tcp as wire

from .bench import Bench, Sent, Told, pattern

_LINE = re.compile(r"(?:\+(?P<time>[\d.]+)\s+)?(?P<kind>[<>&!?=])\s*(?P<rest>.*)")
_SEGMENT = re.compile(
    r"(?P<flags>[SFRPU.]+)\s+(?P<seq>-?\d+|zero)(?::(?P<end>-?\d+))?(?:\s+ack (?P<ack>-?\d+))?"
    r"(?:\s+win (?P<win>\d+))?(?:\s+\[(?P<options>.*)\])?$"
)
_FLAGS = {"S": wire.SYN, "F": wire.FIN, "R": wire.RST, "P": wire.PSH, ".": wire.ACK, "U": 0x20}
WINDOW = 131072
"""What the guest offers where a line does not say."""
_GUEST_CLOCK = 500_000
_NUMBERS = {  # fields that are sequence numbers, and of whose stream
    **dict.fromkeys(("snd_una", "snd_nxt", "recover", "probe_end"), "iss"),
    **dict.fromkeys(("rcv_nxt", "rcv_adv", "rcv_acked"), "irs"),
}


class Trace:
    """Runs traces on one bench; a trace may be continued by another."""

    def __init__(self, *, iss: int = 1000, irs: int = 2000, predicting: bool = False) -> None:
        self.bench = Bench(iss=iss, irs=irs, predicting=predicting)
        self._began = self.bench.now
        self._at = 0.0
        self._batch: list[Segment] = []

    def __call__(self, script: str) -> "Trace":
        lines = [line.split("#")[0].strip() for line in script.splitlines()]
        for number, line in enumerate(lines):
            if not line:
                continue
            following = next((kind for kind in map(_kind, lines[number + 1 :]) if kind), "")
            try:
                self._line(line, following)
            except AssertionError as error:
                done = "\n".join(lines[:number])
                raise AssertionError(f"{done}\n{line}    ← {error}{self._pending()}") from error
        self._quiet()
        return self

    def _line(self, line: str, following: str) -> None:
        match = _LINE.fullmatch(line)
        if match is None:
            raise ValueError(f"not a line of a trace: {line}")
        kind, rest = match["kind"], match["rest"]
        self._at = self.bench.now - self._began
        if match["time"]:
            self._at += float(match["time"])
            if kind in "<!=":
                # What comes due at this very moment is listed before.
                self.bench.advance(self._began + self._at - 1e-6)
                self._quiet()
            self.bench.advance(self._began + self._at)
        if kind in "<&":
            if kind == "<":
                self._quiet()
            self._batch.append(self.segment(rest))
            if following != "&":
                batch, self._batch = self._batch, []
                self.bench.arrives(*batch)
        elif kind == "!":
            self._quiet()
            self.bench.call(*rest.split())
            self.bench.check()
        elif kind == "=":
            self._compare(*rest.split())
        elif not self.bench.log:
            raise AssertionError("nothing happened")
        else:
            self._expect(kind, rest)

    def _quiet(self) -> None:
        if self.bench.log:
            raise AssertionError(f"nothing expected{self._pending()}")

    def _expect(self, kind: str, rest: str) -> None:
        entry = self.bench.log[0]
        moment = self._began + self._at
        assert abs(entry.at - moment) < 1e-5, f"came at {entry.at - moment:+.6f}"
        if isinstance(entry, Told):
            assert (kind, rest) == ("?", entry.what), "something else happened"
        else:
            assert kind == ">", "something else happened"
            self._match(rest, entry)
        del self.bench.log[0]

    def segment(self, text: str) -> Segment:
        """Make a segment from the guest as an `<` line writes it."""
        match = _parse(text)
        flags = _flags(match)
        c = self.bench.c
        seq = int(match["seq"])
        size = int(match["end"] or seq) - seq
        if flags & wire.SYN:
            options = _syn_options(match["options"] or "", self._clock())
            window = int(match["win"] or 65535)
        else:
            options = self._options(match["options"] or "")
            scaled = int(match["win"] or WINDOW)
            window = min(scaled >> c.snd_shift, 0xFFFF)
            assert not match["win"] or window << c.snd_shift == scaled, "no such window"
        return Segment(
            self.bench.irs + seq & MASK,
            self.bench.iss + int(match["ack"]) & MASK if match["ack"] else 0,
            flags,
            window,
            options,
            pattern(seq - 1 + bool(flags & wire.SYN), size),  # a SYN comes before its text
        )

    def _options(self, text: str) -> wire.Options:
        options = wire.Options()
        words = text.split()
        if self.bench.c.timestamps and "nots" not in words:
            value = int(words[words.index("val") + 1]) if "val" in words else self._clock()
            echo = 0
            if "ecr" in words:
                sent = float(words[words.index("ecr") + 1]) + self._began * 1000
                echo = round(sent) & MASK
            options.timestamps = (value + _GUEST_CLOCK & MASK, echo)
        if "sack" in words:
            origin = self.bench.iss
            options.sack = tuple(
                (int(left) + origin & MASK, int(right) + origin & MASK)
                for left, right in re.findall(r"(\d+):(\d+)", text)
            )
        return options

    def _clock(self) -> int:
        return round((self.bench.now - self._began) * 1000)

    def _match(self, text: str, sent: Sent) -> None:
        match = _parse(text)
        flags = _flags(match)
        shift = 0 if flags & wire.SYN else self.bench.c.rcv_shift
        assert flags == sent.flags, "other flags"
        if match["seq"] == "zero":
            assert sent.seq == 0, "another sequence number"
            return
        assert self._ours(sent.seq) == int(match["seq"]), "another sequence number"
        assert len(sent.payload) == int(match["end"] or match["seq"]) - int(match["seq"]), "size"
        if flags & wire.ACK:
            assert match["ack"], "an expected ACK needs a number"
            assert self._guests(sent.ack) == int(match["ack"]), "another acknowledgment"
        assert sent.payload == pattern(self._ours(sent.seq) - 1, len(sent.payload)), "other bytes"
        if match["win"]:
            assert sent.window << shift == int(match["win"]), "another window"
        if match["options"] is not None:
            self._match_options(match["options"], sent)

    def _match_options(self, text: str, sent: Sent) -> None:
        given = sent.options
        if sent.flags & wire.SYN:
            expected = _syn_options(text, 0)
            assert bool(given.timestamps) == bool(expected.timestamps), "timestamps"
            given.timestamps = expected.timestamps = None
            assert given == expected, "other options"
            return
        words = text.split()
        assert ("nots" in words) == (given.timestamps is None), "timestamps"
        if "ecr" in words:
            assert given.timestamps
            echoed = given.timestamps[1] - _GUEST_CLOCK
            assert echoed == int(words[words.index("ecr") + 1]), f"another TSecr, {echoed}"
        ranges = re.findall(r"(\d+):(\d+)", text)
        blocks = [(self._guests(left), self._guests(right)) for left, right in given.sack]
        assert blocks == [(int(left), int(right)) for left, right in ranges], "other SACK blocks"

    def _compare(self, name: str, value: str) -> None:
        c = self.bench.c
        if name in ("cwnd", "ssthresh"):
            actual = getattr(c.congestion, name)
        elif name in ("rto", "srtt"):
            actual = getattr(c.rtt, name)
        elif name == "buffered":
            actual = c.memory.used
        elif hasattr(c, name):
            actual = getattr(c, name)
        else:
            actual = getattr(self.bench.counters, name)
        if name in _NUMBERS:
            actual -= getattr(self.bench, _NUMBERS[name])
        if isinstance(actual, Enum):
            actual = actual.name
        if isinstance(actual, float):
            assert abs(actual - float(value)) < 1e-5, f"{name} is {actual}"
        else:
            assert str(actual) == value, f"{name} is {actual}"

    def _ours(self, number: int) -> int:
        return unwrap(number - self.bench.iss & MASK, 0)

    def _guests(self, number: int) -> int:
        return unwrap(number - self.bench.irs & MASK, 0)

    def _pending(self) -> str:
        return "".join(f"\n    happened: {self._show(entry)}" for entry in self.bench.log)

    def _show(self, entry: Sent | Told) -> str:
        at = f"+{entry.at - self._began - self._at:.3f} "
        if isinstance(entry, Told):
            return f"{at}? {entry.what}"
        seq, size = self._ours(entry.seq), len(entry.payload)
        shift = 0 if entry.flags & wire.SYN else self.bench.c.rcv_shift
        return (
            f"{at}> {flags_name(entry.flags)} {seq}"
            + (f":{seq + size}" if size else "")
            + (f" ack {self._guests(entry.ack)}" if entry.flags & wire.ACK else "")
            + f" win {entry.window << shift} {entry.options}"
        )


def _kind(line: str) -> str:
    match = _LINE.fullmatch(line)
    return match["kind"] if match else ""


def _parse(text: str) -> re.Match[str]:
    match = _SEGMENT.fullmatch(text)
    if match is None:
        raise ValueError(f"not a segment: {text}")
    return match


def _flags(match: re.Match[str]) -> int:
    return sum(_FLAGS[letter] for letter in match["flags"])


def _syn_options(text: str, clock: int) -> wire.Options:
    options = wire.Options()
    words = text.split()
    if "mss" in words:
        options.mss = int(words[words.index("mss") + 1])
    if "ws" in words:
        options.window_shift = int(words[words.index("ws") + 1])
    options.sack_permitted = "sackok" in words
    if "ts" in words:
        options.timestamps = (clock + _GUEST_CLOCK, 0)
    return options
