"""Lua scripts of API keys; see `scripts` for what all share."""

from __future__ import annotations

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
