"""Lua scripts of instances: created, asked to stop, changed; see `scripts` for what all share."""

from __future__ import annotations

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
