"""``python -m ringcorn``: the program, in place of this Python."""

import sys

from .launch import execute

if __name__ == "__main__":
    execute(sys.argv[1:])
