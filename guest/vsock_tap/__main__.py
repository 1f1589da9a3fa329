"""The program's beginning, `vsock-tap` or `python -m vsock_tap`; `cli` is what it does."""

from taplink.beginning import begin


def main() -> None:
    """Run the command."""
    begin()
    from vsock_tap import cli

    cli.main()


if __name__ == "__main__":
    main()
