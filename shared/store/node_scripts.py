"""Lua scripts of what nodes say of themselves, and write back; see `scripts` for what all share."""

from __future__ import annotations

ANNOUNCE = """
-- ARGV: name, holder, seconds of silence after which a holder is gone, last epoch that the node
--       knows, '1' to beat, hash fields and values
local key = prefix .. 'node:' .. ARGV[1]
local held = redis.call('HMGET', key, 'holder', 'heartbeat_at')
local silent_s = held[2] and now() - held[2]  -- below zero: the clock was set back since
local lives = silent_s and math.abs(silent_s) < tonumber(ARGV[3])
if held[1] and held[1] ~= ARGV[2] and lives then return -1 end
redis.call('SADD', prefix .. 'nodes', ARGV[1])
local epoch = math.max(tonumber(redis.call('HGET', key, 'epoch') or 0), tonumber(ARGV[4])) + 1
redis.call('HSET', key, 'epoch', string.format('%d', epoch), 'holder', ARGV[2], unpack(ARGV, 6))
if ARGV[5] == '1' then redis.call('HSET', key, 'heartbeat_at', number(now())) end
return epoch
"""

HEARTBEAT = """
-- ARGV: name, epoch, '1' to beat or '0' to retire
local key = prefix .. 'node:' .. ARGV[1]
local epoch = redis.call('HGET', key, 'epoch')
if not epoch then return 'unknown' end
if tonumber(epoch) < tonumber(ARGV[2]) then return 'behind' end
if epoch ~= ARGV[2] then return 'superseded' end
if ARGV[3] == '1' then
  redis.call('HSET', key, 'heartbeat_at', number(now()))
else
  redis.call('HDEL', key, 'heartbeat_at')
end
return 'ok'
"""

ORPHANS = """
-- ARGV: name, epoch, JSON list
local key = prefix .. 'node:' .. ARGV[1]
if redis.call('HGET', key, 'epoch') ~= ARGV[2] then return 0 end
redis.call('HSET', key, 'orphans', ARGV[3])
return 1
"""

RESTORE = """
-- ARGV: id, node, epoch, revision it replaces or '', JSON list of GPUs, seconds to keep ended
--       records, reason, hash fields and values
local id, node = ARGV[1], ARGV[2]
local key, claims = instance_key(id), prefix .. 'claims:' .. node
local placed = prefix .. 'placed:' .. node
if redis.call('HGET', prefix .. 'node:' .. node, 'epoch') ~= ARGV[3] then return 0 end
local held = redis.call('HMGET', key, 'status', 'revision', 'node')
if ARGV[4] == '' and held[1] then return 0 end
if ARGV[4] ~= '' and ((held[2] or '0') ~= ARGV[4] or held[3] ~= node) then return 0 end
local at, reason = now(), ARGV[7]
redis.call('DEL', key)
redis.call('HSET', key, unpack(ARGV, 8))
local revision = math.max(tonumber(held[2] or 0), tonumber(redis.call('HGET', key, 'revision'))) + 1
redis.call('HSET', key, 'revision', string.format('%d', revision))
local record = redis.call('HMGET', key, 'status', 'desired', 'created_at', 'ended_at', 'run')
local status, run = record[1], tonumber(record[5] or 0)
redis.call('ZREM', prefix .. 'expiry', id)
if status == 'failed' or status == 'stopped' then
  redis.call('HDEL', claims, id)
  redis.call('HDEL', key, 'engine_key')
else
  local wanted, others = {}, {}
  for _, gpu in ipairs(cjson.decode(ARGV[5])) do wanted[gpu] = true end
  local all = redis.call('HGETALL', claims)
  for i = 1, #all, 2 do
    for _, gpu in ipairs(cjson.decode(all[i + 1])) do
      if wanted[gpu] and all[i] ~= id then others[all[i]] = true end
    end
  end
  for other, _ in pairs(others) do
    reason = reason .. '; its GPUs are claimed by ' .. other .. ' too'
  end
  redis.call('HSET', claims, id, ARGV[5])
  redis.call('PERSIST', prefix .. 'events:' .. id)
  for kept = run - RUNS_KEPT + 1, run do redis.call('PERSIST', log_key(id, kept)) end
end
if status == 'running' then
  redis.call('HSET', key, 'last_active', number(at))
  if record[2] == 'running' then schedule(id, at) end
end
if status == 'stopped' then
  redis.call('SREM', placed, id)
  redis.call('ZREM', prefix .. 'instances', id)
  redis.call('ZADD', prefix .. 'ended', record[4] or number(at), id)
else
  local rests = status == 'failed' and record[2] == 'running'
  redis.call(rests and 'SREM' or 'SADD', placed, id)
  redis.call('ZADD', prefix .. 'instances', record[3], id)
end
event(id, at, 'worker', node, status, reason)
if status == 'failed' or status == 'stopped' then
  local left = math.max(1, math.ceil(tonumber(record[4] or at) + tonumber(ARGV[6]) - at))
  for _, kept in ipairs({'instance:', 'events:'}) do
    redis.call('EXPIRE', prefix .. kept .. id, string.format('%d', left))
  end
end
publish(id)
return 1
"""
