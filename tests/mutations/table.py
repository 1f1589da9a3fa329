"""The list of mutations, from `table.diff`."""

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
ENGINE = Path("host/gvproxy/tcp")
_LIST = Path(__file__).with_name("table.diff")


@dataclass(frozen=True, slots=True)
class Mutation:
    """`old` becomes `new` in a file; `argument` says why no test can tell, where none can."""

    file: Path
    old: str
    new: str
    argument: str = ""

    def __str__(self) -> str:
        old, new = (" ⏎ ".join(text.split("\n")) for text in (self.old.strip(), self.new.strip()))
        return f"{self.file.name}: {old} → {new}"

    def apply(self, tree: Path) -> None:
        """Break a copy of the tree."""
        path = tree / self.file
        path.write_text(path.read_text().replace(self.old, self.new))


def mutations() -> list[Mutation]:
    """Return the list; a block of lines is one of them, or the name of the file for those below."""
    file, found = Path(), []
    _, *blocks = _LIST.read_text().rstrip("\n").split("\n\n")
    for block in blocks:
        if block.startswith("--- "):
            file = ENGINE / block.removeprefix("--- ")
            continue
        lines = block.split("\n")
        old, new, why = (
            [line[1:] for line in lines if line.startswith(mark)] for mark in ("-", "+", "~")
        )
        assert len(old) + len(new) + len(why) == len(lines), f"not a mutation: {block}"
        found.append(Mutation(file, "\n".join(old), "\n".join(new), " ".join(map(str.strip, why))))
    return found
