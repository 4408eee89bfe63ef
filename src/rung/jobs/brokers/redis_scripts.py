"""What the server does for a queue in one step each: scripts in Lua, over streams of one consumer group.

An entry that is out belongs to the consumer `taken`; one that waits for its next try, to `paused`. How often it was
delivered is the fencing token: whoever names another number, or an entry that is paused, changes nothing. All keys of
a queue carry one hash tag, so that they lie on one node of a cluster.
"""

__all__ = ["GROUP", "PUT", "SETTLE", "TAKE"]

GROUP = "rung"

PUT = """
-- KEYS: identities, streams. ARGV: for each message its stream (place in KEYS), identity, bytes.
for place = 1, #ARGV, 3 do
  if redis.call('HSETNX', KEYS[1], ARGV[place + 1], '') == 1 then
    redis.call('XADD', KEYS[tonumber(ARGV[place])], '*', 'm', ARGV[place + 2])
  end
end
"""

TAKE = """
-- KEYS: streams in their turn. ARGV: group, count, milliseconds of a lease, whether to look for leases that ran out,
-- then for each stream whether it is one of keys. Returns for each entry: stream, entry, deliveries, bytes.
local group, count, lease, look = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4] == '1'
local found = {}

local function add(stream, entry, deliveries)
  found[#found + 1] = {stream, entry[1], deliveries, entry[2][2]}
end

local function again(stream, room)
  local cursor = '0-0'
  repeat
    local answer = redis.call('XAUTOCLAIM', KEYS[stream], group, 'taken', lease, cursor, 'COUNT', room)
    cursor = answer[1]
    for _, entry in ipairs(answer[2]) do
      local pending = redis.call('XPENDING', KEYS[stream], group, entry[1], entry[1], 1)
      add(stream, entry, pending[1][4])
      room = room - 1
    end
  until cursor == '0-0' or room < 1
  return room
end

local function fresh(stream, room)
  local answer = redis.call('XREADGROUP', 'GROUP', group, 'taken', 'COUNT', room, 'STREAMS', KEYS[stream], '>')
  if answer then
    for _, entry in ipairs(answer[1][2]) do add(stream, entry, 1) end
  end
end

for stream = 1, #KEYS do
  local room = count - #found
  if room < 1 then break end
  if redis.call('XLEN', KEYS[stream]) > 0 then
    local out = redis.call('XPENDING', KEYS[stream], group)[1]
    if ARGV[4 + stream] == '1' then
      if out > 0 then again(stream, 1) else fresh(stream, 1) end
    else
      if look and out > 0 then room = again(stream, room) end
      if room > 0 then fresh(stream, room) end
    end
  end
end
return found
"""

SETTLE = """
-- KEYS: identities, streams. ARGV: group, milliseconds of a lease, then for each lease its stream (place in KEYS),
-- entry, deliveries, ending (or 'renew'), milliseconds of its pause, identity. Returns the places of those held.
local group, lease = ARGV[1], tonumber(ARGV[2])
local held = {}
for place = 3, #ARGV, 6 do
  local stream, entry, deliveries = KEYS[tonumber(ARGV[place])], ARGV[place + 1], tonumber(ARGV[place + 2])
  local pending = redis.call('XPENDING', stream, group, entry, entry, 1)[1]
  if pending and pending[2] == 'taken' and pending[4] == deliveries then
    held[#held + 1] = (place - 3) / 6
    local ending = ARGV[place + 3]
    if ending == 'renew' then
      redis.call('XCLAIM', stream, group, 'taken', 0, entry, 'JUSTID')
    elseif ending == 'again' or ending == 'returned' then
      -- What is paused looks as if it had been out for long enough already.
      local idle = math.max(0, lease - tonumber(ARGV[place + 4]))
      local count = ending == 'again' and deliveries or deliveries - 1
      redis.call('XCLAIM', stream, group, 'paused', 0, entry, 'IDLE', idle, 'RETRYCOUNT', count, 'JUSTID')
    else
      redis.call('XACK', stream, group, entry)
      redis.call('XDEL', stream, entry)
      redis.call('HDEL', KEYS[1], ARGV[place + 5])
    end
  end
end
return held
"""
