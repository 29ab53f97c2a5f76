"""Lua scripts of use and its absence; see `scripts` for what all share."""

from __future__ import annotations

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
