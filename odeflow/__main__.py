"""`python -m odeflow`, the same as the console script."""

import sys

from odeflow.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
