"""What is on its way to the guest: RFC 6675's scoreboard, of transmissions instead of segments.

A record is one transmission, up to a super-frame, or what acknowledgments have cut it into.  In
order and without gaps the records cover SND.UNA to SND.NXT.  Each knows when it was last sent,
which is all that RACK (RFC 8985) needs.
"""

from bisect import bisect_left
from collections.abc import Iterator
from operator import attrgetter

MAX_RECORDS = 2048
"""What is done for each acknowledgment must not take long, whatever a guest says has arrived."""
_START = attrgetter("start")


class Sent:
    """One transmission; `again` where it was not the first of these bytes."""

    __slots__ = ("again", "at", "end", "lost", "sacked", "start")

    def __init__(self, start: int, end: int, at: float) -> None:
        self.start = start
        self.end = end
        self.at = at
        self.again = self.sacked = self.lost = False

    def cut(self, at: int) -> "Sent":
        """Keep what lies before `at` and return the rest."""
        rest = Sent(at, self.end, self.at)
        rest.again, rest.sacked, rest.lost = self.again, self.sacked, self.lost
        self.end = at
        return rest


class Flight:
    """The records; `sacked` and `lost` are how many bytes of them are marked so.

    What is lost is not on its way until it is sent again.  Without SACK (RFC 2018), `sacked` is
    what duplicate acknowledgments stand for, and no record is marked.
    """

    __slots__ = ("lost", "records", "sacked")

    def __init__(self) -> None:
        self.records: list[Sent] = []
        self.sacked = 0
        self.lost = 0

    def add(self, start: int, end: int, now: float) -> None:
        """Record a transmission; among very many it shares a record with the one before."""
        records = self.records
        if len(records) >= MAX_RECORDS:
            last = records[-1]
            if not (last.sacked or last.lost or last.again):
                last.end, last.at = end, now
                return
        records.append(Sent(start, end, now))

    def acknowledge(self, una: int, believable: float) -> Sent | None:
        """Drop what lies before `una`; return the newest transmission that this shows to be there.

        One made again after `believable` is not taken for it: what arrived was an earlier one.
        """
        records = self.records
        newest, count = None, 0
        for record in records:
            if record.end > una:
                break
            count += 1
            if record.sacked:
                self.sacked -= record.end - record.start
                continue
            if record.lost:
                self.lost -= record.end - record.start
            elif (newest is None or record.at >= newest.at) and (
                not record.again or record.at <= believable
            ):
                newest = record
        del records[:count]
        if records:
            first = records[0]
            rest = una - first.start
            if rest > 0:
                first.start = una
                if first.sacked:
                    self.sacked -= rest
                elif first.lost:
                    self.lost -= rest
                elif newest is None and not first.again:
                    newest = Sent(una - rest, una, first.at)
        return newest

    def sack(self, left: int, right: int) -> list[Sent]:
        """Mark a range as arrived; return the records that were not known to be."""
        records = self.records
        if len(records) >= MAX_RECORDS:
            return []
        begin, end = self._cut(left), self._cut(right)
        fresh = [record for record in records[begin:end] if not record.sacked]
        for record in fresh:
            record.sacked = True
            self.sacked += record.end - record.start
            if record.lost:
                record.lost = False
                self.lost -= record.end - record.start
        if end - begin > 1:
            parts = records[begin:end]
            merged = Sent(parts[0].start, parts[-1].end, max(part.at for part in parts))
            merged.again = any(part.again for part in parts)
            merged.sacked = True
            records[begin:end] = [merged]
        return fresh

    def _cut(self, at: int) -> int:
        """Have a record begin at `at`; return its index."""
        records = self.records
        index = bisect_left(records, at, key=_START)
        if index and records[index - 1].end > at:
            records.insert(index, records[index - 1].cut(at))
        return index

    def lose(self, record: Sent) -> None:
        """Mark a record as lost."""
        record.lost = True
        self.lost += record.end - record.start

    def lose_first(self, size: int) -> None:
        """Mark up to `size` bytes at the front as lost."""
        records = self.records
        self._cut(records[0].start + size)
        if not records[0].lost:
            self.lose(records[0])

    def lose_all(self) -> None:
        """Mark everything as lost that is not known to have arrived.

        Where even the first record is, the guest has changed its mind (RFC 2018 §8), and nothing is
        known.
        """
        reneged = bool(self.records) and self.records[0].sacked
        self.sacked = self.lost = 0
        for record in self.records:
            record.sacked = record.sacked and not reneged
            record.lost = not record.sacked
            if record.lost:
                self.lost += record.end - record.start
            else:
                self.sacked += record.end - record.start

    def find_all(self) -> None:
        """Take it back that anything is lost."""
        for record in self.records:
            record.lost = False
        self.lost = 0

    def lost_run(self, index: int) -> int:
        """Return how many bytes from the record at `index` on are lost without a break."""
        records, end = self.records, index
        while end < len(records) and records[end].lost:
            end += 1
        return records[end - 1].end - records[index].start if end > index else 0

    def take_lost(self, index: int, size: int) -> Sent:
        """Make one record of `size` lost bytes from `index` on, that are not lost any more."""
        records = self.records
        first = records[index]
        end = first.start + size
        behind = self._cut(end)
        first.end, first.lost = end, False
        del records[index + 1 : behind]
        self.lost -= size
        return first

    def last(self, size: int) -> Sent:
        """Return the last record, of `size` bytes at most."""
        record = self.records[-1]
        if record.end - record.start > size:
            self.records.append(record := record.cut(record.end - size))
        return record

    def in_doubt(self) -> Iterator[Sent]:
        """Return the records that are neither known to have arrived nor to be lost."""
        return (record for record in self.records if not (record.sacked or record.lost))

    def clear(self) -> None:
        """Forget everything."""
        self.records.clear()
        self.sacked = self.lost = 0
