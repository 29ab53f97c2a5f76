"""Lua that keeps the store's indexes; part of every script, see `scripts`.

`publish(id)` is all that a script has to call once it has changed a record: it lists the record
under its node, model and status, remembers that it changed, and tells who listens. No step here
costs more for a larger fleet, but for logarithms.
"""

from __future__ import annotations

LISTING = """
-- Remember that `id` of `kind` changed: in a sorted set, by a stamp that only ever grows.
local function mark(kind, id)
  local changed, from = prefix .. 'changed:' .. kind, prefix .. 'changed-from:' .. kind
  local t = redis.call('TIME')
  local stamp = tonumber(t[1]) * 1000000 + tonumber(t[2])
  local last = redis.call('ZREVRANGE', changed, 0, 0, 'WITHSCORES')[2]
  if last then stamp = math.max(stamp, tonumber(last) + 1) end
  if not last then redis.call('SET', from, string.format('%.0f', stamp - 1)) end
  redis.call('ZADD', changed, string.format('%.0f', stamp), id)
  if redis.call('ZCARD', changed) > MOST_CHANGED then
    redis.call('SET', from, redis.call('ZPOPMIN', changed)[2])
  end
end
-- In which sorted sets it is, the hash `listed` knows: then it can be taken out of them also when
-- its record is gone.
local function unlist(id)
  local names = redis.call('HGET', prefix .. 'listed', id)
  if not names then return end
  for _, name in ipairs(cjson.decode(names)) do redis.call('ZREM', prefix .. name, id) end
  redis.call('HDEL', prefix .. 'listed', id)
  redis.call('ZREM', prefix .. 'unlist', id)
end
local function score(n)  -- of a damaged record: 0
  n = tonumber(n or 0)
  return n and n == n and number(n) or '0'
end
local AS_IT_IS = {stopping = true, stopped = true, stop_failed = true}
local function list(id, at)
  local key = instance_key(id)
  local held = redis.call('HMGET', key,
    'status', 'desired', 'node', 'model_name', 'catalogue', 'created_at')
  local status, desired = held[1], held[2]
  if not status then return unlist(id) end
  local shown = (desired == 'stopped' and not AS_IT_IS[status]) and 'stopping' or status
  local all = status == 'stopped' and 'ended' or 'instances'
  local names = {all, all .. ':status:' .. shown, all .. ':node:' .. (held[3] or ''),
    all .. ':model:' .. (held[4] or '')}
  if (held[5] or '') ~= '' and held[5] ~= held[4] then
    table.insert(names, all .. ':model:' .. held[5])
  end
  if status == 'running' and desired == 'running' then table.insert(names, 'serving') end
  local text = cjson.encode(names)
  local before = redis.call('HGET', prefix .. 'listed', id)
  if before == text then return end
  local left = {}
  for _, name in ipairs(before and cjson.decode(before) or {}) do left[name] = true end
  for _, name in ipairs(names) do
    if left[name] then
      left[name] = nil
    else
      redis.call('ZADD', prefix .. name, score(held[6]), id)
    end
  end
  for name in pairs(left) do redis.call('ZREM', prefix .. name, id) end
  redis.call('HSET', prefix .. 'listed', id, text)
  local left_ms = redis.call('PTTL', key)
  if left_ms > 0 then
    local left_s = math.min(left_ms / 1000 + 1, KEEP_ENDED)
    redis.call('ZADD', prefix .. 'unlist', number(at + left_s), id)
  elseif before then
    redis.call('ZREM', prefix .. 'unlist', id)
  end
end
local function tell(id)
  mark('instances', id)
  redis.call('PUBLISH', prefix .. 'changes', id)
end
-- Of those whose time is over: a few at each change, so that none costs much.
local function unlist_old(at, most)
  local due = redis.call(
    'ZRANGEBYSCORE', prefix .. 'unlist', '-inf', number(at), 'LIMIT', 0, most)
  for _, id in ipairs(due) do
    redis.call('ZREM', prefix .. 'unlist', id)
    unlist(id)
    tell(id)
  end
end
local function publish(id)
  local at = now()
  list(id, at)
  tell(id)
  unlist_old(at, 2)
end
"""

UNLIST = """
-- ARGV: ids that have no record any more, as far as somebody has seen
for _, id in ipairs(ARGV) do
  if redis.call('EXISTS', instance_key(id)) == 0 then
    unlist(id)
    redis.call('ZREM', prefix .. 'line', id)
    tell(id)
  end
end
return 1
"""

LEASE = """
-- ARGV: name, holder, milliseconds
local key = prefix .. 'lease:' .. ARGV[1]
local held = redis.call('GET', key)
if held and held ~= ARGV[2] then return 0 end
redis.call('SET', key, ARGV[2], 'PX', ARGV[3])
return 1
"""

END_LEASE = """
-- ARGV: name, holder
local key = prefix .. 'lease:' .. ARGV[1]
if redis.call('GET', key) == ARGV[2] then redis.call('DEL', key) end
return 1
"""
