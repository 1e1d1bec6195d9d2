"""`python -m tikmatrix_tasks.simulator`: the simulator without the rest of the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from tikmatrix_tasks.simulator.command import add_arguments, run


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tikmatrix_tasks.simulator",
        description="A stand-in TikMatrix: its Local API without phones.",
    )
    add_arguments(parser)
    return run(parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
