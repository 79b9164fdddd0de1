"""The store's scripts: each touches one slot, and runs whole or not at all."""

# KEYS meta, factors; ARGV record, payload, expiry in ms.
PUT_PAIR = """
redis.call('SET', KEYS[1], ARGV[1], 'PXAT', ARGV[3])
redis.call('SET', KEYS[2], ARGV[2], 'PXAT', ARGV[3])
return 1
"""

# KEYS meta, factors; ARGV record, expiry in ms. 0 when a part is missing: the adapter must be made anew then.
REFRESH_PAIR = """
if redis.call('EXISTS', KEYS[1], KEYS[2]) < 2 then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PXAT', ARGV[2])
redis.call('PEXPIREAT', KEYS[2], ARGV[2])
return 1
"""

# KEYS meta, factors.
DROP_PAIR = "return redis.call('DEL', KEYS[1], KEYS[2])"

# KEYS made, ends; ARGV id, created in ms, expiry in ms, now in ms. Takes out up to 100 expired members on the way,
# more than it puts in, so the index stays as large as the tenant's live adapters. It lives until the last of them
# ends.
PUT_INDEX = """
local expired = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', ARGV[4], 'LIMIT', 0, 100)
if #expired > 0 then
  redis.call('ZREM', KEYS[1], unpack(expired))
  redis.call('ZREM', KEYS[2], unpack(expired))
end
redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[1])
local last = redis.call('ZREVRANGE', KEYS[2], 0, 0, 'WITHSCORES')[2]
redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', last))
redis.call('PEXPIREAT', KEYS[2], string.format('%.0f', last))
return 1
"""

# KEYS made, ends; ARGV id.
DROP_INDEX = "redis.call('ZREM', KEYS[2], ARGV[1]) return redis.call('ZREM', KEYS[1], ARGV[1])"
