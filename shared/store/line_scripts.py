"""Lua of the line of instances that wait for a place; see `scripts` for what all share."""

from __future__ import annotations

LINE = """
local function accepts(node)
  return redis.call('HEXISTS', prefix .. 'node:' .. node, 'cordon') == 0
end
-- Whether a node has room for `wanted` (GPU to thousandths), not counting `id` and those who leave.
local function has_room(node, id, most, wanted, leaving)
  local count, sums = 0, {}
  local all = redis.call('HGETALL', prefix .. 'claims:' .. node)
  for i = 1, #all, 2 do
    if all[i] ~= id and not leaving[all[i]] then
      count = count + 1
      for gpu, share in pairs(shares(all[i + 1])) do sums[gpu] = (sums[gpu] or 0) + share end
    end
  end
  if count >= most then return false end
  for gpu, share in pairs(wanted) do
    if (sums[gpu] or 0) + share > WHOLE then return false end
  end
  return true
end
local function join_line(id, priority)  -- by priority, then by who was first; see `ahead_of_new`
  local number = redis.call('INCR', prefix .. 'line-joined')
  redis.call('ZADD', prefix .. 'line', string.format('%.0f', number - priority * 2 ^ 42), id)
end
local function give_up_room(id)  -- return the node where something was reserved, if any
  local reserved = redis.call('HGET', instance_key(id), 'reserved')
  if not reserved then return nil end
  local node = cjson.decode(reserved).node
  redis.call('HDEL', prefix .. 'claims:' .. node, id)
  redis.call('HDEL', instance_key(id), 'reserved')
  node_changed(node)
  return node
end
local function is_idle(id, node, at, quiet_s, min_ready_s)
  local held = redis.call('HMGET', instance_key(id),
    'status', 'desired', 'node', 'timeout', 'last_active', 'ready_at', 'generation', 'revision')
  local timeout, used_at = tonumber(held[4] or 0), tonumber(held[5] or 0)
  local ready_at = tonumber(held[6] or 0)
  local damaged = not (timeout and used_at and ready_at
    and countable(held[7]) and countable(held[8]))
  return not damaged and held[1] == 'running' and held[2] == 'running' and held[3] == node
    and timeout > 0 and at - used_at >= quiet_s and at - ready_at >= min_ready_s
end
-- Claim a place that is free once all `room.victims` have left it, and ask them to.
local function make_room(id, node, most, text, room, at, who)
  local leaving = {}
  for _, victim in ipairs(room.victims) do
    if not is_idle(victim, node, at, room.quiet_s, room.min_ready_s) then return false end
    leaving[victim] = true
  end
  if not accepts(node) or not has_room(node, id, most, shares(text), leaving) then return false end
  redis.call('HSET', prefix .. 'claims:' .. node, id, text)
  node_changed(node)
  for _, victim in ipairs(room.victims) do
    ask_to_stop(victim, at, 'makes room for ' .. id .. ', and nobody used it', 'evict', who)
  end
  return true
end
local function leave_line(id)
  redis.call('ZREM', prefix .. 'line', id)
  give_up_room(id)
end
"""

PLACE = (
    LINE
    + """
-- ARGV: id, node, most instances of the node, JSON object of GPUs and shares, JSON list of GPUs,
--       who
local id, node = ARGV[1], ARGV[2]
local key = instance_key(id)
local held = redis.call('HMGET', key, 'status', 'desired', 'node', 'created_at')
if held[1] ~= 'pending' or held[2] ~= 'running' or held[3] ~= '' then return 0 end
if not accepts(node) or not has_room(node, id, tonumber(ARGV[3]), shares(ARGV[4]), {}) then
  return 0
end
local at = now()
leave_line(id)
redis.call('HSET', prefix .. 'claims:' .. node, id, ARGV[4])
redis.call('HSET', key, 'node', node, 'gpus', ARGV[5], 'reason', '')
redis.call('HINCRBY', key, 'revision', 1)
redis.call('SADD', prefix .. 'placed:' .. node, id)
node_changed(node)
local waited = string.format(' after %.1f s in line', at - tonumber(held[4]))
event(id, at, 'line', ARGV[6], 'pending', 'placed on ' .. node .. waited)
publish(id)
return 1
"""
)

MAKE_ROOM = (
    LINE
    + """
-- ARGV: id, most instances of the node, JSON object of GPUs and shares, JSON of what is reserved,
--       JSON of the `Room`, who, reason
local id = ARGV[1]
local key = instance_key(id)
local held = redis.call('HMGET', key, 'status', 'desired', 'node', 'reserved')
if held[1] ~= 'pending' or held[2] ~= 'running' or held[3] ~= '' or held[4] then return 0 end
local at, room = now(), cjson.decode(ARGV[5])
if not make_room(id, room.node, tonumber(ARGV[2]), ARGV[3], room, at, ARGV[6]) then return 0 end
redis.call('HSET', key, 'reserved', ARGV[4])
redis.call('HINCRBY', key, 'revision', 1)
event(id, at, 'evict', ARGV[6], 'pending', ARGV[7])
publish(id)
return 1
"""
)

GIVE_UP_ROOM = (
    LINE
    + """
-- ARGV: id
if redis.call('HGET', instance_key(ARGV[1]), 'node') ~= '' then return 0 end
local node = give_up_room(ARGV[1])
if not node then return 0 end
redis.call('HINCRBY', instance_key(ARGV[1]), 'revision', 1)
event(ARGV[1], now(), 'line', '', 'pending', 'nobody makes room on ' .. node .. ' any more')
publish(ARGV[1])
return 1
"""
)

REJOIN = (
    LINE
    + """
-- ARGV: id, priority, who, hash fields and values
local id = ARGV[1]
if redis.call('EXISTS', instance_key(id)) == 1 then return 0 end
join_line(id, tonumber(ARGV[2]))
redis.call('HSET', instance_key(id), unpack(ARGV, 4))
event(id, now(), 'line', ARGV[3], 'pending', 'waits in line again: Redis had lost its record')
publish(id)
return 1
"""
)
