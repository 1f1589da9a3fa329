"""Text for people, whatever strangers' values are in it."""


def one_line(text: object) -> str:
    """Return `text` in one line that can be printed anywhere: what is unprintable is escaped."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in str(text))
