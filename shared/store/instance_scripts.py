"""Lua scripts of instances: created, asked to stop, changed; see `scripts` for what all share."""

from __future__ import annotations

from shared.store.line_scripts import LINE

CREATE = (
    LINE
    + """
-- ARGV: id, node or '' to wait in line, most instances of the node, JSON object of GPUs and shares,
--       reason, who, digest of the `Once` or '', its fingerprint, seconds to keep it, priority in
--       the line, JSON of the `Room` or '', hash fields and values
local id, node = ARGV[1], ARGV[2]
local once = prefix .. 'once:' .. ARGV[7]
if ARGV[7] ~= '' then
  local made = redis.call('HGET', once, 'instance_id')
  if made then
    local held = redis.call('HMGET', instance_key(made), 'status', 'desired')
    local counts = held[1] ~= 'failed' and held[2] == 'running'
    if held[1] and (counts or ARGV[8] ~= 'REPLICA_MARK') then return 0 end
  end
end
local at, most = now(), tonumber(ARGV[3])
if node ~= '' then
  if not accepts(node) or not has_room(node, id, most, shares(ARGV[4]), {}) then return 0 end
  redis.call('HSET', prefix .. 'claims:' .. node, id, ARGV[4])
  redis.call('SADD', prefix .. 'placed:' .. node, id)
  node_changed(node)
else
  if ARGV[11] ~= '' then
    local room = cjson.decode(ARGV[11])
    if not make_room(id, room.node, most, ARGV[4], room, at, ARGV[6]) then return 0 end
  end
  join_line(id, tonumber(ARGV[10]))
end
redis.call('HSET', instance_key(id), unpack(ARGV, 12))
redis.call('HSET', instance_key(id), 'created_at', number(at))
if ARGV[7] ~= '' then
  redis.call('HSET', once, 'instance_id', id, 'fingerprint', ARGV[8])
  redis.call('EXPIRE', once, ARGV[9])
end
event(id, at, 'user', ARGV[6], 'pending', ARGV[5])
publish(id)
return 1
"""
)

STOP = (
    LINE
    + """
-- ARGV: id, reason, by, who, seconds to keep what has ended
-- Returns the record as it is then.
local id, key = ARGV[1], instance_key(ARGV[1])
local function record() return redis.call('HGETALL', key) end
local held = redis.call('HMGET', key, 'desired', 'status', 'stop_by', 'node')
if not held[1] or held[2] == 'stopped' then return record() end
-- As domain.instance.takes_over and asks_once_more.
local firmness = {idle = 0, evict = 0, drain = 1}
local taken_over = (firmness[ARGV[3]] or 2) > (firmness[held[3] or ''] or 2)
local once_more = held[2] == 'stop_failed' and not firmness[ARGV[3]]
if held[1] ~= 'running' and not taken_over and not once_more then return record() end
local at = now()
if held[4] ~= '' then
  ask_to_stop(id, at, ARGV[2], ARGV[3], ARGV[4])
  return record()
end
-- It waits in line: nothing of it runs anywhere, and no worker has it.
leave_line(id)
local generation = redis.call('HINCRBY', key, 'generation', 1)
redis.call('HINCRBY', key, 'revision', 1)
redis.call('HSET', key, 'desired', 'stopped', 'stop_reason', ARGV[2], 'stop_by', ARGV[3],
  'status', 'stopped', 'reason', ARGV[2], 'observed_generation', generation,
  'ended_at', number(at))
event(id, at, ARGV[3], ARGV[4], 'desired=stopped', ARGV[2])
event(id, at, ARGV[3], ARGV[4], 'stopped', 'it waited in line, nothing of it ran')
redis.call('EXPIRE', key, ARGV[5])
redis.call('EXPIRE', prefix .. 'events:' .. id, ARGV[5])
publish(id)
return record()
"""
)

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
    unschedule(id)
  end
  if status == 'failed' or status == 'stopped' then
    if redis.call('HDEL', prefix .. 'claims:' .. node, id) == 1 then
      redis.call('HSET', prefix .. 'node:' .. node, 'freed_at', number(at))
      node_changed(node)
    end
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
elseif status == 'starting' then
  mark('instances', id)  -- how far it is, many times in each start: who follows may hear it late
  return 1
end
publish(id)
return 1
"""
