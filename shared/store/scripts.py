"""Lua scripts: what must be one step. Redis runs each whole, nothing comes between.

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
local function countable(n) return not n or string.match(n, '^%d+$') end
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

CREATE = """
-- ARGV: id, node, most instances of the node, JSON list of GPUs, reason, who, digest of the `Once`
--       or '', its fingerprint, seconds to keep it, hash fields and values
local id, node = ARGV[1], ARGV[2]
local once = prefix .. 'once:' .. ARGV[7]
if ARGV[7] ~= '' then
  local made = redis.call('HGET', once, 'instance_id')
  if made and redis.call('EXISTS', instance_key(made)) == 1 then return 0 end
end
local claims = prefix .. 'claims:' .. node
if redis.call('HLEN', claims) >= tonumber(ARGV[3]) then return 0 end
local wanted = {}
for _, gpu in ipairs(cjson.decode(ARGV[4])) do wanted[gpu] = true end
for _, held in ipairs(redis.call('HVALS', claims)) do
  for _, gpu in ipairs(cjson.decode(held)) do
    if wanted[gpu] then return 0 end
  end
end
local at = now()
redis.call('HSET', instance_key(id), unpack(ARGV, 10))
redis.call('HSET', instance_key(id), 'created_at', number(at))
redis.call('HSET', claims, id, ARGV[4])
redis.call('SADD', prefix .. 'placed:' .. node, id)
redis.call('ZADD', prefix .. 'instances', number(at), id)
if ARGV[7] ~= '' then
  redis.call('HSET', once, 'instance_id', id, 'fingerprint', ARGV[8])
  redis.call('EXPIRE', once, ARGV[9])
end
event(id, at, 'user', ARGV[6], 'pending', ARGV[5])
publish(id)
return 1
"""

STOP = """
-- ARGV: id, reason, by, who
local key = instance_key(ARGV[1])
local held = redis.call('HMGET', key, 'desired', 'status', 'stop_by')
if not held[1] or held[2] == 'stopped' then return 0 end
-- What the idle sweep asked may be withdrawn; what a user asks after it may not.
local taken_over = held[3] == 'idle' and ARGV[3] ~= 'idle'
local once_more = held[2] == 'stop_failed' and ARGV[3] ~= 'idle'
if held[1] ~= 'running' and not taken_over and not once_more then return 0 end
ask_to_stop(ARGV[1], now(), ARGV[2], ARGV[3], ARGV[4])
return 1
"""

APPLY = """
-- ARGV: id, node, epoch, generation, status, JSON list of statuses it may come from, by, who,
--       seconds to keep what has ended, and this record of it, JSON list of fields to remove,
--       hash fields and values
local id, node, status = ARGV[1], ARGV[2], ARGV[5]
local key = instance_key(id)
local held = redis.call('HMGET', key, 'status', 'generation', 'node')
if not held[1] or held[2] ~= ARGV[4] or held[3] ~= node then return 0 end
if redis.call('HGET', prefix .. 'node:' .. node, 'epoch') ~= ARGV[3] then return 0 end
local before = held[1]
if before ~= status then
  local allowed = false
  for _, from in ipairs(cjson.decode(ARGV[6])) do allowed = allowed or from == before end
  if not allowed then return 0 end
end
local at = now()
redis.call('HSET', key, 'status', status, 'observed_generation', ARGV[4])
for _, name in ipairs(cjson.decode(ARGV[11])) do redis.call('HDEL', key, name) end
if ARGV[12] then redis.call('HSET', key, unpack(ARGV, 12)) end
if before ~= status then
  redis.call('HINCRBY', key, 'revision', 1)
  local run = tonumber(redis.call('HGET', key, 'run') or 0)
  if status == 'starting' then redis.call('HSET', key, 'started_at', number(at)) end
  if status == 'running' then
    redis.call('HSET', key, 'ready_at', number(at), 'last_active', number(at))
    schedule(id, at)
  else
    redis.call('ZREM', prefix .. 'expiry', id)
  end
  if status == 'failed' or status == 'stopped' then
    redis.call('HDEL', prefix .. 'claims:' .. node, id)
    redis.call('HDEL', key, 'engine_key')
    redis.call('HSET', key, 'ended_at', number(at))
    if status == 'stopped' or redis.call('HGET', key, 'desired') == 'running' then
      redis.call('SREM', prefix .. 'placed:' .. node, id)
    end
    redis.call('EXPIRE', key, ARGV[10])
    redis.call('EXPIRE', prefix .. 'events:' .. id, ARGV[9])
    for kept = run - RUNS_KEPT + 1, run do redis.call('EXPIRE', log_key(id, kept), ARGV[9]) end
  end
  if run >= RUNS_KEPT then redis.call('DEL', log_key(id, run - RUNS_KEPT)) end
  event(id, at, ARGV[7], ARGV[8], status, redis.call('HGET', key, 'reason') or '')
end
if before ~= status and status == 'stopped' then
  redis.call('ZREM', prefix .. 'instances', id)
  redis.call('ZADD', prefix .. 'ended', number(at), id)
  redis.call('ZREMRANGEBYSCORE', prefix .. 'ended', '-inf', number(at - tonumber(ARGV[9])))
end
publish(id)
return 1
"""

TOUCH = """
-- ARGV: how many have requests under way, the ids of those, the ids of the others
-- One record that is damaged must not keep the others from being touched.
local at, under_way = now(), tonumber(ARGV[1])
for place = 2, #ARGV do
  local id = ARGV[place]
  local key = instance_key(id)
  local held = redis.call('HMGET', key, 'status', 'desired', 'stop_by', 'generation', 'revision')
  local withdrawn = held[2] == 'stopped' and held[3] == 'idle'
    and countable(held[4]) and countable(held[5])
  if held[1] == 'running' and (held[2] == 'running' or withdrawn) then
    redis.call('HSET', key, 'last_active', number(at))
    schedule(id, at)
    if withdrawn then
      redis.call('HSET', key, 'desired', 'running', 'stop_reason', '', 'stop_by', '')
      redis.call('HINCRBY', key, 'generation', 1)
      redis.call('HINCRBY', key, 'revision', 1)
      event(id, at, 'user', 'requests', 'desired=running', 'it is in use')
      publish(id)
    end
  elseif place <= 1 + under_way and held[2] == 'stopped'
      and held[1] ~= 'stopped' and held[1] ~= 'failed' then
    redis.call('HSET', key, 'last_active', number(at))  -- it drains
  end
end
"""

STOP_IDLE = """
-- ARGV: node or '', who, seconds to hold back; see domain.expiry.sweep
local at, hold = now(), tonumber(ARGV[3])
if ARGV[1] == '' then redis.call('SET', prefix .. 'swept-at', number(at)) end
local due, is_due = {}, {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', prefix .. 'expiry', '-inf', number(at))) do
  local held = redis.call('HMGET', instance_key(id), 'status', 'desired', 'node', 'timeout',
    'generation', 'revision')
  local damaged = not (held[3] and held[4] and countable(held[5]) and countable(held[6]))
  if held[1] ~= 'running' or held[2] ~= 'running' or damaged then
    redis.call('ZREM', prefix .. 'expiry', id)
  else
    table.insert(due, {id = id, node = held[3], why = 'idle for ' .. held[4] .. ' s, its timeout'})
    is_due[id] = true
  end
end
local running = 0
if #due > 1 then
  for _, id in ipairs(redis.call('ZRANGE', prefix .. 'instances', 0, -1)) do
    local held = redis.call('HMGET', instance_key(id), 'status', 'desired')
    if held[1] == 'running' and held[2] == 'running' then running = running + 1 end
  end
end
local suspicious = #due > 1 and 2 * #due > running
local holds = suspicious and hold > 0
local held_key = prefix .. 'idle-held'
for _, id in ipairs(redis.call('HKEYS', held_key)) do
  if not (holds and is_due[id]) then redis.call('HDEL', held_key, id) end
end
local share = (holds and string.format('; held back for %g s: ', hold) or '; ')
  .. string.format('%d of %d running instances are due at once', #due, running)
local stopped = {}
for _, one in ipairs(due) do
  local since = tonumber(redis.call('HGET', held_key, one.id) or at + 1)
  if holds and since > at then
    redis.call('HSET', held_key, one.id, number(at))
    event(one.id, at, 'idle', ARGV[2], 'running', one.why .. share)
    publish(one.id)
  elseif (ARGV[1] == '' or ARGV[1] == one.node) and (not holds or at - since >= hold) then
    redis.call('HDEL', held_key, one.id)
    ask_to_stop(one.id, at, one.why .. (suspicious and share or ''), 'idle', ARGV[2])
    table.insert(stopped, one.id)
  end
end
return stopped
"""

NOTE = """
-- ARGV: id, by, who, reason
local status = redis.call('HGET', instance_key(ARGV[1]), 'status')
if not status then return 0 end
event(ARGV[1], now(), ARGV[2], ARGV[3], status, ARGV[4])
publish(ARGV[1])
return 1
"""

APPEND_LOG = """
-- ARGV: id, run, most lines, most bytes, seconds to keep it where there is no record, lines
local id, run, most = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[4])
local current = tonumber(redis.call('HGET', instance_key(id), 'run') or run)
if run <= current - RUNS_KEPT then return 0 end
local key = log_key(id, run)
local last = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1]
local written = last and tonumber(last[2][4]) or 0  -- bytes of the run that were ever kept
for i = 6, #ARGV do
  written = written + #ARGV[i]
  redis.call('XADD', key, 'MAXLEN', '~', ARGV[3], '*',
    'line', ARGV[i], 'end', string.format('%.0f', written))
end
local from, fits = '-', nil
while not fits do  -- the newest fits: a line is far shorter than a log may be
  local page = redis.call('XRANGE', key, from, '+', 'COUNT', 128)
  for _, entry in ipairs(page) do
    local begins = tonumber(entry[2][4]) - #entry[2][2]
    if begins >= written - most then fits = entry[1] break end
  end
  if #page == 0 then break end
  from = '(' .. page[#page][1]
end
if fits then redis.call('XTRIM', key, 'MINID', fits) end
local left = redis.call('TTL', instance_key(id))
if left == -1 then
  redis.call('PERSIST', key)
else  -- its record has ended, or is lost: these lines are kept no longer than that
  redis.call('EXPIRE', key, left > 0 and math.min(left, tonumber(ARGV[5])) or ARGV[5])
end
return 1
"""

_API_KEYS = """
local function api_key(id) return prefix .. 'api-key:' .. id end
local function key_changed(id) redis.call('PUBLISH', prefix .. 'key-changes', id) end
local function add_key(id, at, first)  -- hash fields and values: ARGV from `first` on
  if redis.call('SADD', prefix .. 'api-keys', id) == 0 then return false end
  redis.call('HSET', api_key(id), 'created_at', number(at), unpack(ARGV, first))
  key_changed(id)
  return true
end
"""

ADD_KEY = (
    _API_KEYS
    + """
-- ARGV: id, hash fields and values
return add_key(ARGV[1], now(), 2) and 1 or 0
"""
)

REVOKE_KEY = (
    _API_KEYS
    + """
-- ARGV: id
if redis.call('EXISTS', api_key(ARGV[1])) == 0 then return 0 end
if redis.call('HSETNX', api_key(ARGV[1]), 'revoked_at', number(now())) == 1 then
  key_changed(ARGV[1])
end
return 1
"""
)

ROTATE_KEY = (
    _API_KEYS
    + """
-- ARGV: id, seconds of overlap, successor's id, its hash fields and values
local key, at = api_key(ARGV[1]), now()
local held = redis.call('HMGET', key, 'created_at', 'expires_at', 'revoked_at', 'successor')
if not held[1] then return 0 end
local expires = tonumber(held[2] or 'inf')
if held[3] or held[4] or expires <= at then return 0 end
if not add_key(ARGV[3], at, 4) then return 0 end
redis.call('HSET', key, 'successor', ARGV[3],
  'expires_at', number(math.min(expires, at + tonumber(ARGV[2]))))
key_changed(ARGV[1])
return 1
"""
)


def script(body: str) -> str:
    """Return a whole script: the functions that all share, then `body`."""
    whole = _COMMON + body
    for name, number in _NUMBERS.items():
        whole = whole.replace(name, str(number))
    return whole
