"""Runs the system's programs: modprobe, resolvectl, resolvconf."""

import subprocess
import tempfile

TIMEOUT = 10.0  # seconds
MAX_COMPLAINTS = 65536  # bytes that are looked at


def run(*command: str, text: str = "") -> None:
    """Run a program to its end, with `text` for its input; what it prints is dropped.

    Raises OSError with the last line of its complaints where it fails, or does not end in time.
    """
    # To a file, not through a pipe: a child that the program leaves behind may keep that open.
    with tempfile.TemporaryFile() as complaints:
        try:
            subprocess.run(
                command,
                input=text.encode(),
                stdout=subprocess.DEVNULL,
                stderr=complaints,
                timeout=TIMEOUT,
                check=True,
            )
        except subprocess.CalledProcessError as error:
            complaints.seek(0)
            said = complaints.read(MAX_COMPLAINTS).decode(errors="replace").strip().splitlines()
            raise OSError(said[-1] if said else f"status {error.returncode}") from None
        except subprocess.TimeoutExpired as error:
            raise OSError(f"no end of {' '.join(command)} in {TIMEOUT:.0f} s") from error
