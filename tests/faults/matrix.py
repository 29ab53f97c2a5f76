"""All rows, by number."""

from __future__ import annotations

from tests.faults.row import Row
from tests.faults.rows import cuts, delivery, engines, machine, network, redis, steps, workers

MATRIX: dict[int, Row] = {
    row.number: row
    for row in sorted(
        (
            *workers.ROWS,
            *engines.ROWS,
            *machine.ROWS,
            *delivery.ROWS,
            *redis.ROWS,
            *cuts.ROWS,
            *network.ROWS,
            *steps.ROWS,
        ),
        key=lambda row: row.number,
    )
}
PROMISED = frozenset({*range(1, 48), 62, 63, 64, 65})
"""What `make faults` has to hold."""
