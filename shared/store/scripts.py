"""What all Lua scripts share: each is what must be one step, and Redis runs it whole.

They lie by subject: `instance_scripts`, `idle_scripts`, `node_scripts`, `history_scripts`,
`key_scripts`.

KEYS[1] is the prefix of all key names (see `keys`); the fleet's Redis is one server, not a
cluster, so scripts build the rest.
"""

from __future__ import annotations

from shared.store.history import EVENT_REASON_BYTES, EVENTS, RUNS_KEPT

_NUMBERS = {"MOST_EVENTS": EVENTS, "REASON_BYTES": EVENT_REASON_BYTES, "RUNS_KEPT": RUNS_KEPT}

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
local function publish(id) redis.call('PUBLISH', prefix .. 'changes', id) end
local function schedule(id, at)
  local timeout = tonumber(redis.call('HGET', instance_key(id), 'timeout') or 0)
  if timeout and timeout > 0 then
    redis.call('ZADD', prefix .. 'expiry', number(at + timeout), id)
  end
end
local function countable(n) return not n or (string.match(n, '^%d+$') and #n <= 15) end
local function ask_to_stop(id, at, reason, by, who)
  local key = instance_key(id)
  redis.call('HSET', key, 'desired', 'stopped', 'stop_reason', reason, 'stop_by', by)
  redis.call('HINCRBY', key, 'generation', 1)
  redis.call('HINCRBY', key, 'revision', 1)
  redis.call('ZREM', prefix .. 'expiry', id)
  -- A failed one is not its node's any more; this one is to be looked at again.
  redis.call('SADD', prefix .. 'placed:' .. redis.call('HGET', key, 'node'), id)
  event(id, at, by, who, 'desired=stopped', reason)
  publish(id)
end
"""


def script(body: str) -> str:
    """Return a whole script: the functions that all share, then `body`."""
    whole = _COMMON + body
    for name, number in _NUMBERS.items():
        whole = whole.replace(name, str(number))
    return whole
