"""Make what the fleet cannot be cloned with: the engine environment and the demo models.

Runs before anything is installed, so the whole package imports the standard library only, and
nothing from the rest of the project. From the repository root:

    python3 -m workers.provision venv .venv
    python3 -m workers.provision engine
    python3 -m workers.provision model SmolLM2-135M-Instruct
"""

import sys

if sys.version_info < (3, 11):
    sys.exit("provision: Python 3.11 or newer is needed, this one is " + sys.version.split()[0])
