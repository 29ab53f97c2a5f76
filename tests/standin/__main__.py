"""Run the stand-in: `python -m tests.standin serve MODEL [flags]`."""

import os
import sys

from .api_server import main

status = main(sys.argv[1:])
# Not sys.exit: threads blocked on a client or on a full log pipe must not delay the end.
os._exit(status)
