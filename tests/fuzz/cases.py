"""An input: messages one after the other, each behind its length, whatever the bytes."""

Case = list[bytes]

_LARGEST = 0xFFFF


def join(case: Case) -> bytes:
    """Write messages as one input; what makes one too long is cut off."""
    return b"".join(min(len(one), _LARGEST).to_bytes(2, "big") + one[:_LARGEST] for one in case)


def split(data: bytes) -> Case:
    """Read the messages of an input; the last may be shorter than it says."""
    case, position = [], 0
    while position + 2 <= len(data):
        size = int.from_bytes(data[position : position + 2], "big")
        case.append(data[position + 2 : position + 2 + size])
        position += 2 + size
    return case
