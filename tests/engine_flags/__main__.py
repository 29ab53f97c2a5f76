"""Print the source of `shared/domain/vllm_flags.py`."""

import sys

from tests.engine_flags import Oracle, source

with Oracle() as oracle:
    sys.stdout.write(source(oracle.installed()))
