"""The store's scripts: each touches one slot, and runs whole or not at all."""

# KEYS meta, factors and, of an adapter that keeps its state, state; ARGV the record as it was read ('' for none), the
# new one, expiry in ms, payload, the state's expiry in ms, state. 0 when the whole adapter is there already: what was
# promised of it must not be overwritten. -1 when somebody else has changed the record meanwhile.
PUT_PARTS = """
if redis.call('EXISTS', unpack(KEYS)) == #KEYS then return 0 end
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return -1 end
redis.call('SET', KEYS[1], ARGV[2], 'PXAT', ARGV[3])
redis.call('SET', KEYS[2], ARGV[4], 'PXAT', ARGV[3])
if KEYS[3] then redis.call('SET', KEYS[3], ARGV[6], 'PXAT', ARGV[5]) end
return 1
"""

# KEYS as above; ARGV the record as it was read, the new one, expiry in ms, the state's expiry in ms. 0 when a part is
# missing: the adapter must be made anew then. -1 as above.
REFRESH_PARTS = """
if redis.call('EXISTS', unpack(KEYS)) < #KEYS then return 0 end
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return -1 end
redis.call('SET', KEYS[1], ARGV[2], 'PXAT', ARGV[3])
redis.call('PEXPIREAT', KEYS[2], ARGV[3])
if KEYS[3] then redis.call('PEXPIREAT', KEYS[3], ARGV[4]) end
return 1
"""

# KEYS the parts of an adapter. How many of each were there.
DROP_PARTS = """
local dropped = {}
for place, key in ipairs(KEYS) do dropped[place] = redis.call('DEL', key) end
return dropped
"""

# The three keys of a tenant's index are always KEYS made, ends, sizes. A state is a member of its own, `ID:state`, that
# is not in `made`: it takes room and ends by itself, and is no adapter. `prune` takes out expired members, more of them
# than a call puts in, so the index stays as large as the tenant's live adapters.
_INDEX = """
local function forget(id)
  local size = redis.call('HGET', KEYS[3], id)
  if size then
    redis.call('HDEL', KEYS[3], id)
    redis.call('HINCRBY', KEYS[3], 'total', -size)
  end
  redis.call('ZREM', KEYS[2], id)
  local dropped = redis.call('ZREM', KEYS[1], id)
  if redis.call('EXISTS', KEYS[2]) == 0 then redis.call('DEL', KEYS[3]) end
  return dropped
end
local function prune(now)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, 1000)) do forget(id) end
end
local function usage()
  local first = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')
  return {redis.call('ZCARD', KEYS[1]), tonumber(redis.call('HGET', KEYS[3], 'total') or 0), first[2] or ''}
end
"""

# ARGV now in ms. Live adapters, their bytes, and when the first of them ends (in ms, '' for none).
USAGE = _INDEX + "prune(ARGV[1]) return usage()"

# ARGV id, created in ms ('' for a state), expiry in ms, now in ms, bytes, most adapters, most bytes (-1: no limit).
# Nothing when all is well, the usage when a new member would pass a limit. The index lives until the last of its
# members ends.
PUT_INDEX = (
    _INDEX
    + """
prune(ARGV[4])
local size, most, room = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local now = usage()
if not redis.call('ZSCORE', KEYS[2], ARGV[1]) then
  if most >= 0 and now[1] >= most or room >= 0 and now[2] + size > room then return now end
end
redis.call('HINCRBY', KEYS[3], 'total', size - (redis.call('HGET', KEYS[3], ARGV[1]) or 0))
redis.call('HSET', KEYS[3], ARGV[1], size)
if ARGV[2] ~= '' then redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1]) end
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[1])
local last = redis.call('ZREVRANGE', KEYS[2], 0, 0, 'WITHSCORES')[2]
for place = 1, 3 do redis.call('PEXPIREAT', KEYS[place], string.format('%.0f', last)) end
return {}
"""
)

# ARGV id.
DROP_INDEX = _INDEX + "forget(ARGV[1] .. ':state') return forget(ARGV[1])"
