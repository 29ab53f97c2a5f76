"""What all Lua scripts share: each is what must be one step, and Redis runs it whole.

They lie by subject: `instance_scripts`, `idle_scripts`, `line_scripts`, `listing_scripts`,
`node_scripts`, `history_scripts`, `key_scripts`.

KEYS[1] is the prefix of all key names (see `keys`); the fleet's Redis is one server, not a
cluster, so scripts build the rest.
"""

from __future__ import annotations

from shared.domain.node import HEARTBEAT_S, REPORTED_WITHIN_S
from shared.domain.wanted import WHOLE
from shared.store import KEEP_ENDED_S
from shared.store.history import EVENT_REASON_BYTES, EVENTS, REPLICA, RUNS_KEPT
from shared.store.listing import MOST_CHANGED
from shared.store.listing_scripts import LISTING

_NUMBERS = {
    "MOST_EVENTS": EVENTS,
    "REASON_BYTES": EVENT_REASON_BYTES,
    "RUNS_KEPT": RUNS_KEPT,
    "WHOLE": WHOLE,
    "MOST_CHANGED": MOST_CHANGED,
    "REPLICA_MARK": REPLICA,
    "MOST_AHEAD_S": HEARTBEAT_S,
    "REPORTED_WITHIN_S": REPORTED_WITHIN_S,
    "KEEP_ENDED": KEEP_ENDED_S,
}

_COMMON = """
local prefix = KEYS[1]
local function instance_key(id) return prefix .. 'instance:' .. id end
local function now()
  local t = redis.call('TIME')
  return tonumber(t[1]) + tonumber(t[2]) / 1e6
end
local function number(n) return string.format('%.6f', n) end
local function log_key(id, run) return prefix .. 'log:' .. id .. ':' .. run end
local function cut(text, most)  -- in bytes, between two characters
  if #text <= most then return text end
  while most > 0 and string.byte(text, most + 1) >= 128 and string.byte(text, most + 1) < 192 do
    most = most - 1
  end
  return string.sub(text, 1, most)
end
local EXPLAINED = {backoff = true, failed = true, unhealthy = true, stop_failed = true}
local function event(id, at, by, who, status, reason)
  local held = redis.call('HMGET', instance_key(id), 'run', 'cause')
  redis.call('XADD', prefix .. 'events:' .. id, 'MAXLEN', '~', MOST_EVENTS, '*',
    'at', number(at), 'by', by, 'who', who, 'status', status, 'reason', cut(reason, REASON_BYTES),
    'run', held[1] or '0', 'cause', EXPLAINED[status] and held[2] or '')
end
LISTING
local function node_changed(name, quietly)
  mark('nodes', name)
  if not quietly then redis.call('PUBLISH', prefix .. 'node-changes', name) end
end
local function schedule_after(timeout, id, at)
  timeout = tonumber(timeout or 0)
  if timeout and timeout > 0 then
    redis.call('ZADD', prefix .. 'expiry', number(at + timeout), id)
  end
end
local function schedule(id, at)
  schedule_after(redis.call('HGET', instance_key(id), 'timeout'), id, at)
  redis.call('HDEL', prefix .. 'idle-held', id)
end
local function unschedule(id)
  redis.call('ZREM', prefix .. 'expiry', id)
  redis.call('HDEL', prefix .. 'idle-held', id)
end
local function shares(text)  -- what a claim holds: GPU → thousandths of it
  local held = cjson.decode(text)
  if #held == 0 then return held end
  local whole = {}  -- a list: claimed by a version that knew whole GPUs only
  for _, gpu in ipairs(held) do whole[gpu] = WHOLE end
  return whole
end
local function held_by_others(claims, id)  -- of each GPU of a node, but for what `id` holds
  local sums, all = {}, redis.call('HGETALL', claims)
  for i = 1, #all, 2 do
    if all[i] ~= id then
      for gpu, share in pairs(shares(all[i + 1])) do sums[gpu] = (sums[gpu] or 0) + share end
    end
  end
  return sums
end
local WITHDRAWABLE = {idle = true, evict = true}  -- who asked because nobody used it
local function countable(n) return not n or (string.match(n, '^%d+$') and #n <= 15) end
local function ask_to_stop(id, at, reason, by, who)
  local key = instance_key(id)
  redis.call('HSET', key, 'desired', 'stopped', 'stop_reason', reason, 'stop_by', by)
  redis.call('HINCRBY', key, 'generation', 1)
  redis.call('HINCRBY', key, 'revision', 1)
  unschedule(id)
  -- A failed one is not its node's any more; this one is to be looked at again.
  redis.call('SADD', prefix .. 'placed:' .. redis.call('HGET', key, 'node'), id)
  event(id, at, by, who, 'desired=stopped', reason)
  publish(id)
end
"""


def script(body: str) -> str:
    """Return a whole script: the functions that all share, then `body`."""
    whole = _COMMON.replace("LISTING\n", LISTING) + body
    for name, number in _NUMBERS.items():
        whole = whole.replace(name, str(number))
    return whole
