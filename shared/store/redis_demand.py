"""What web processes say of their requests, on Redis."""

from __future__ import annotations

import json
from collections.abc import Mapping

import redis

from shared.store.demand import Demand, Places
from shared.store.keys import Keys
from shared.store.redis_client import RedisPart, answering

TELL = """
-- ARGV: holder, milliseconds to keep it, the most that wait for one model, JSON of
-- model: {running, waiting, waiting for sure}, '' for nothing
local holders = prefix .. 'demand'
redis.call('ZREMRANGEBYSCORE', holders, '-inf', string.format('%.0f', now() * 1000))
local lines = {}
local until_ms = now() * 1000 + tonumber(ARGV[2])
if ARGV[4] == '' then
  redis.call('ZREM', holders, ARGV[1])
  redis.call('DEL', holders .. ':' .. ARGV[1])
else
  local elsewhere = {}
  for _, other in ipairs(redis.call('ZRANGE', holders, 0, -1)) do
    local told = other ~= ARGV[1] and redis.call('GET', holders .. ':' .. other)
    for model, one in pairs(told and cjson.decode(told) or {}) do
      elsewhere[model] = (elsewhere[model] or 0) + one[2]
    end
  end
  local demand = cjson.decode(ARGV[4])
  for model, one in pairs(demand) do
    local others = elsewhere[model] or 0
    local may = math.max(one[3], math.min(one[2], tonumber(ARGV[3]) - others))
    lines[model] = {may, others}
    demand[model] = {one[1], may}
  end
  redis.call('ZADD', holders, string.format('%.0f', until_ms), ARGV[1])
  redis.call('SET', holders .. ':' .. ARGV[1], cjson.encode(demand), 'PX', ARGV[2])
end
return cjson.encode(lines)
"""


_ALL = 10**9


class RedisDemands(RedisPart):
    """Keeps the `Demands` promise."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        super().__init__(client, keys)
        self._tell = self._script(TELL)

    @answering
    def tell_demand(
        self,
        holder: str,
        demand: Mapping[str, Demand],
        seconds: float,
        *,
        most: int | None = None,
        sure: Mapping[str, int] | None = None,
    ) -> dict[str, Places]:
        """Say what the web process `holder` has now, and return who may wait."""
        has_place = sure or {}
        told = {
            model: (one.running, one.waiting, has_place.get(model, 0))
            for model, one in demand.items()
        }
        lines = self._tell(
            holder,
            max(1, round(seconds * 1000)),
            _ALL if most is None else most,
            json.dumps(told) if told else "",
        )
        return {model: Places(*line) for model, line in json.loads(lines).items()}

    @answering
    def demand(self, *, without: str = "") -> dict[str, Demand]:
        """Return what all web processes have together; but for the one called `without`."""
        holders = [name for name in self._redis.zrange(self._keys.demand, 0, -1) if name != without]
        total: dict[str, Demand] = {}
        if not holders:
            return total
        for told in self._redis.mget([self._keys.demand_of(name) for name in holders]):
            for model, (running, waiting) in json.loads(told or "{}").items():
                total[model] = total.get(model, Demand()) + Demand(running, waiting)
        return total
