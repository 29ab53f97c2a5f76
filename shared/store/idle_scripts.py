"""Lua scripts of what is in use and what is idle; see `scripts` for what all share."""

from __future__ import annotations

TOUCH = """
-- ARGV: how many have requests under way, the ids of those, the ids of the others
-- One record that is damaged must not keep the others from being touched.
local at, under_way = now(), tonumber(ARGV[1])
local holds_back = redis.call('EXISTS', prefix .. 'idle-held') == 1
for place = 2, #ARGV do
  local id = ARGV[place]
  local key = instance_key(id)
  local held = redis.call('HMGET', key, 'status', 'desired', 'stop_by', 'generation', 'revision',
    'timeout')
  local withdrawn = held[2] == 'stopped' and WITHDRAWABLE[held[3]]
    and countable(held[4]) and countable(held[5])
  if held[1] == 'running' and (held[2] == 'running' or withdrawn) then
    redis.call('HSET', key, 'last_active', number(at))
    schedule_after(held[6], id, at)
    if holds_back then redis.call('HDEL', prefix .. 'idle-held', id) end
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

RETIME = """
-- ARGV: id, timeout in seconds, who
local id, key = ARGV[1], instance_key(ARGV[1])
local held = redis.call('HMGET', key, 'status', 'desired', 'timeout', 'last_active', 'ready_at',
  'revision')
if held[2] ~= 'running' or held[1] == 'failed' or held[3] == ARGV[2]
  or not countable(held[6]) then return 0 end
redis.call('HSET', key, 'timeout', ARGV[2])
redis.call('HINCRBY', key, 'revision', 1)
unschedule(id)
local used_at = tonumber(held[4] or '') or tonumber(held[5] or '')
if held[1] == 'running' and used_at then schedule(id, used_at) end
event(id, now(), 'catalogue', ARGV[3], 'timeout=' .. ARGV[2], 'the catalogue has changed')
publish(id)
return 1
"""

STOP_IDLE = """
-- ARGV: node or '', who, seconds to hold back, how many of those due to pass over and to look at,
--       how many are due and running in all, '' to count them; see domain.expiry.sweep
-- Returns the two counts, how many were looked at and stay due, and the ids that were stopped.
local node, who, hold, at = ARGV[1], ARGV[2], tonumber(ARGV[3]), now()
local expiry, held_key = prefix .. 'expiry', prefix .. 'idle-held'
local found = {}
if node == '' then
  redis.call('SET', prefix .. 'swept-at', number(at))
  unlist_old(at, 200)
  found = redis.call(
    'ZRANGEBYSCORE', expiry, '-inf', number(at), 'LIMIT', ARGV[4], ARGV[5])
else  -- what is placed on one node is few
  for _, id in ipairs(redis.call('SMEMBERS', prefix .. 'placed:' .. node)) do
    local due_at = redis.call('ZSCORE', expiry, id)
    if due_at and tonumber(due_at) <= at then table.insert(found, id) end
  end
end
local looked_at, due = #found, {}
for _, id in ipairs(found) do
  local held = redis.call('HMGET', instance_key(id), 'status', 'desired', 'timeout', 'node',
    'generation', 'revision')
  local damaged = not (held[3] and held[4] and countable(held[5]) and countable(held[6]))
  if held[1] == 'running' and held[2] == 'running' and not damaged then
    table.insert(due, {id = id, why = 'idle for ' .. held[3] .. ' s, its timeout'})
  else
    unschedule(id)
  end
end
local in_all = tonumber(ARGV[6]) or redis.call('ZCOUNT', expiry, '-inf', number(at))
local running = tonumber(ARGV[7]) or redis.call('ZCARD', prefix .. 'serving')
local suspicious = in_all > 1 and 2 * in_all > running
local holds = suspicious and hold > 0
if not holds then redis.call('UNLINK', held_key) end
local share = (holds and string.format('; held back for %g s: ', hold) or '; ')
  .. string.format('%d of %d running instances are due at once', in_all, running)
local stopped = {}
for _, one in ipairs(due) do
  local since = tonumber(redis.call('HGET', held_key, one.id) or at + 1)
  if holds and since > at then
    redis.call('HSET', held_key, one.id, number(at))
    event(one.id, at, 'idle', who, 'running', one.why .. share)
    publish(one.id)
  elseif not holds or at - since >= hold then
    ask_to_stop(one.id, at, one.why .. (suspicious and share or ''), 'idle', who)
    table.insert(stopped, one.id)
  end
end
return {in_all, running, looked_at, #due - #stopped, stopped}
"""
