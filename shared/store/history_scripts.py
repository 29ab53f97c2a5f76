"""Lua scripts of the past: events and logs; see `scripts` for what all share."""

from __future__ import annotations

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
