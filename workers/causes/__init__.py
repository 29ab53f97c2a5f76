"""Why an engine ended: a short cause code, a line for people, and what to change.

`codes` are the causes, `messages` tell them in a log, `oom` asks the kernel, `autopsy` judges.
"""

from __future__ import annotations

from workers.causes.autopsy import cause_of_death, known

__all__ = ["cause_of_death", "known"]
