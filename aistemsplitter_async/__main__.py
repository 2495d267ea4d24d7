"""`python -m aistemsplitter_async` is the command line."""

import sys

from aistemsplitter_async.cli import main

if __name__ == "__main__":
    sys.exit(main())
