"""Lua scripts of what nodes say of themselves, and write back; see `scripts` for what all share."""

from __future__ import annotations

from shared.store.line_scripts import LINE

ANNOUNCE = """
-- ARGV: name, holder, seconds of silence after which a holder is gone, last epoch that the node
--       knows, '1' to beat, cordon it had where it is not known: 'cordoned', 'draining' or '',
--       hash fields and values
local key, beats = prefix .. 'node:' .. ARGV[1], prefix .. 'beats'
local held = redis.call('HMGET', key, 'holder', 'epoch')
local beat = redis.call('ZSCORE', beats, ARGV[1])
local silent_s = beat and now() - beat  -- below zero: the clock was set back since
local lives = silent_s and math.abs(silent_s) < tonumber(ARGV[3])
if held[1] and held[1] ~= ARGV[2] and lives then return -1 end
redis.call('SADD', prefix .. 'nodes', ARGV[1])
local epoch = math.max(tonumber(held[2] or 0), tonumber(ARGV[4])) + 1
redis.call('HSET', key, 'epoch', string.format('%d', epoch), 'holder', ARGV[2], unpack(ARGV, 7))
redis.call('HDEL', key, 'report')
if not held[2] and ARGV[6] ~= '' then redis.call('HSET', key, 'cordon', ARGV[6]) end
if ARGV[5] == '1' then redis.call('ZADD', beats, number(now()), ARGV[1]) end
node_changed(ARGV[1])
for _, id in ipairs(redis.call('SMEMBERS', prefix .. 'placed:' .. ARGV[1])) do
  list(id, now())  -- of a version that knew fewer indexes
end
return epoch
"""

HEARTBEAT = """
-- ARGV: name, epoch, '1' to beat or '0' to retire, report or ''
local key, beats = prefix .. 'node:' .. ARGV[1], prefix .. 'beats'
local held = redis.call('HMGET', key, 'epoch', 'cordon', 'freed_at')
if not held[1] then return 'unknown' end
if tonumber(held[1]) < tonumber(ARGV[2]) then return 'behind' end
if held[1] ~= ARGV[2] then return 'superseded' end
if ARGV[3] == '0' then
  if redis.call('ZREM', beats, ARGV[1]) == 1 then node_changed(ARGV[1]) end
  return 'ok'
end
local at, changed = now(), ARGV[4] ~= ''
if ARGV[4] ~= '' then redis.call('HSET', key, 'report', ARGV[4]) end
local freed_ago = held[3] and at - held[3]
if freed_ago and (freed_ago < 0 or freed_ago >= REPORTED_WITHIN_S) then
  redis.call('HDEL', key, 'freed_at')  -- what its drivers said counts again: followers do not know
  changed = true
end
if redis.call('ZADD', beats, number(at), ARGV[1]) == 1 then
  node_changed(ARGV[1])
elseif changed then
  node_changed(ARGV[1], true)
end
return held[2] or 'ok'
"""

CORDON = """
-- ARGV: name, 'cordoned', 'draining', or '' to take either back
local key = prefix .. 'node:' .. ARGV[1]
local held = redis.call('HMGET', key, 'epoch', 'cordon')
if not held[1] or (held[2] or '') == ARGV[2] then return 0 end
if ARGV[2] == '' then
  redis.call('HDEL', key, 'cordon')
elseif held[2] ~= 'draining' then
  redis.call('HSET', key, 'cordon', ARGV[2])
end
node_changed(ARGV[1])
return 1
"""

FORGET_NODE = """
-- ARGV: name, seconds of silence after which a node is lost
local name, beats = ARGV[1], prefix .. 'beats'
local beat = redis.call('ZSCORE', beats, name)
if beat and math.abs(now() - beat) < tonumber(ARGV[2]) then return 0 end
if redis.call('HLEN', prefix .. 'claims:' .. name) > 0 then return 0 end
if redis.call('SREM', prefix .. 'nodes', name) == 0 then return 0 end
redis.call('DEL', prefix .. 'node:' .. name)
redis.call('ZREM', beats, name)
node_changed(name)
return 1
"""

NODES_SINCE = """
-- ARGV: cursor or '', seconds of silence after which a node is lost
-- Returns the last change or '', since when changes are known or '', the names of nodes that
-- changed since the cursor, and of those that are silent names and seconds in turn.
local changed = prefix .. 'changed:nodes'
local last = redis.call('ZREVRANGE', changed, 0, 0, 'WITHSCORES')[2]
local from = ARGV[1] == '' and '+inf' or '(' .. ARGV[1]
local names = redis.call('ZRANGEBYSCORE', changed, from, '+inf')
local at, beats, lost = now(), prefix .. 'beats', {}
local function add(from, to)
  local found = redis.call('ZRANGEBYSCORE', beats, from, to, 'WITHSCORES')
  for i = 1, #found, 2 do
    lost[#lost + 1] = found[i]
    lost[#lost + 1] = number(at - found[i + 1])
  end
end
add('-inf', '(' .. number(at - tonumber(ARGV[2])))
add('(' .. number(at + MOST_AHEAD_S), '+inf')  -- see domain.node.heartbeat_age
local since = redis.call('GET', prefix .. 'changed-from:nodes') or ''
return {last and string.format('%.0f', last) or '', since, names, lost}
"""

ORPHANS = """
-- ARGV: name, epoch, JSON list
local key = prefix .. 'node:' .. ARGV[1]
if redis.call('HGET', key, 'epoch') ~= ARGV[2] then return 0 end
redis.call('HSET', key, 'orphans', ARGV[3])
node_changed(ARGV[1])
return 1
"""

RESTORE = (
    LINE
    + """
-- ARGV: id, node, epoch, revision it replaces or '', JSON object of GPUs and shares, seconds to
--       keep ended records, reason, hash fields and values
local id, node = ARGV[1], ARGV[2]
local key, claims = instance_key(id), prefix .. 'claims:' .. node
local placed = prefix .. 'placed:' .. node
if redis.call('HGET', prefix .. 'node:' .. node, 'epoch') ~= ARGV[3] then return 0 end
local held = redis.call('HMGET', key, 'status', 'revision', 'node')
if ARGV[4] == '' and held[1] then return 0 end
-- An older copy may be from when it waited in line: then no node had it.
local older = held[3] == node or held[3] == ''
if ARGV[4] ~= '' and ((held[2] or '0') ~= ARGV[4] or not older) then return 0 end
if held[3] == '' then leave_line(id) end
local at, reason = now(), ARGV[7]
redis.call('DEL', key)
unlist(id)  -- wherever it was: what is found below is the truth
redis.call('HSET', key, unpack(ARGV, 8))
local revision = math.max(tonumber(held[2] or 0), tonumber(redis.call('HGET', key, 'revision'))) + 1
redis.call('HSET', key, 'revision', string.format('%d', revision))
local record = redis.call('HMGET', key, 'status', 'desired', 'created_at', 'ended_at', 'run')
local status, run = record[1], tonumber(record[5] or 0)
unschedule(id)
if status == 'failed' or status == 'stopped' then
  if redis.call('HDEL', claims, id) == 1 then node_changed(node) end
  redis.call('HDEL', key, 'engine_key')
else
  local held, over, others = held_by_others(claims, id), {}, {}
  for gpu, share in pairs(shares(ARGV[5])) do over[gpu] = (held[gpu] or 0) + share > WHOLE end
  local all = redis.call('HGETALL', claims)
  for i = 1, #all, 2 do
    for gpu, _ in pairs(shares(all[i + 1])) do
      if over[gpu] and all[i] ~= id then others[all[i]] = true end
    end
  end
  for other, _ in pairs(others) do
    reason = reason .. '; its GPUs are claimed by ' .. other .. ' too'
  end
  redis.call('HSET', claims, id, ARGV[5])
  node_changed(node)
  redis.call('PERSIST', prefix .. 'events:' .. id)
  for kept = run - RUNS_KEPT + 1, run do redis.call('PERSIST', log_key(id, kept)) end
end
if status == 'running' then
  redis.call('HSET', key, 'last_active', number(at))
  if record[2] == 'running' then schedule(id, at) end
end
if status == 'stopped' then
  redis.call('SREM', placed, id)
else
  local rests = status == 'failed' and record[2] == 'running'
  redis.call(rests and 'SREM' or 'SADD', placed, id)
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
)
