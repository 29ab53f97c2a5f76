"""Print the source of `shared/domain/vllm_flags.py`."""

import sys

from tests.engine_flags import installed, source

sys.stdout.write(source(installed()))
