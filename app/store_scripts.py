"""What the store does in one step, in Lua: for all who speak to it, one after the other."""

from __future__ import annotations

# What was trimmed is not lost: whoever is that far behind goes on from a snapshot.
APPEND = """
if (redis.call('GET', KEYS[2]) or '0') ~= ARGV[2] then
  return redis.error_reply('the log has been rewritten; nothing was written')
end
local after = ARGV[1]
local function has(cursor)
  return #redis.call('XRANGE', KEYS[1], cursor, cursor, 'COUNT', 1) > 0
end
local function is_trimmed()
  local floor = redis.call('GET', KEYS[3])
  if not floor or not has(floor) then return false end
  local ms, seq = string.match(after, '^(%d+)-(%d+)$')
  local floor_ms, floor_seq = string.match(floor, '^(%d+)-(%d+)$')
  ms, floor_ms = tonumber(ms), tonumber(floor_ms)
  return ms < floor_ms or (ms == floor_ms and tonumber(seq) < tonumber(floor_seq))
end
if after ~= '0-0' and not has(after) and not is_trimmed() then
  return redis.error_reply('the log has lost the entry ' .. after .. '; nothing was written')
end
local cursors = {}
for i = 3, #ARGV, 2 do
  cursors[#cursors + 1] = redis.call('XADD', KEYS[1], '*', 'e', ARGV[i], 't', ARGV[i + 1])
end
return cursors
"""

# Into a log without somebody goes nothing of the one before; into that again, where a store has
# forgotten the new one, it does.
APPEND_AGAIN = """
if tonumber(redis.call('GET', KEYS[2]) or '0') > tonumber(ARGV[2]) then return -1 end
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
if (last[1] and last[1][1] or '0-0') ~= ARGV[1] then
  return redis.error_reply('the log does not end at ' .. ARGV[1] .. ' any more')
end
local taken = 0
for i = 3, #ARGV, 3 do
  local done = redis.pcall('XADD', KEYS[1], ARGV[i], 'e', ARGV[i + 1], 't', ARGV[i + 2])
  if not done.err then
    taken = taken + 1
  elseif not string.find(done.err, 'equal or smaller', 1, true) then
    return done
  end
end
return taken
"""

# By the server's clock, as those of replicas differ.
ANNOUNCE = """
local now = redis.call('TIME')
for _, name in ipairs(redis.call('HKEYS', KEYS[1])) do
  local told = redis.call('HGET', KEYS[1], name)
  if tonumber(now[1]) - tonumber(string.match(told, '^%d+')) > tonumber(ARGV[3]) then
    redis.call('HDEL', KEYS[1], name)
  end
end
local at = now[1] .. '.' .. string.format('%06d', now[2])
redis.call('HSET', KEYS[1], ARGV[1], at .. ' ' .. ARGV[2])
"""

# Which of these cursors are not in the log: without the entries, which may be large.
MISSING = """
local missing = {}
for _, cursor in ipairs(ARGV) do
  if #redis.call('XRANGE', KEYS[1], cursor, cursor, 'COUNT', 1) == 0 then
    missing[#missing + 1] = cursor
  end
end
return missing
"""

# A snapshot exists from here on, unless the log is another by now or has not got its entry, or what
# it builds on is gone (-1), or there is one (0). Not even if that entry was trimmed: no start goes
# on from there, and in a store that forgets it may never have been. A log still to begin is one
# into which everything is restored. That of a log in the making expires as that does.
FINISH = """
if (redis.call('GET', KEYS[1]) or '0') ~= ARGV[1] then return -1 end
local id = ARGV[2]
if redis.call('EXISTS', KEYS[3]) == 1
    and #redis.call('XRANGE', KEYS[3], id, id, 'COUNT', 1) == 0 then return -1 end
if ARGV[5] ~= '' and redis.call('HEXISTS', KEYS[2], ARGV[5]) == 0 then return -1 end
if redis.call('HSETNX', KEYS[2], id, ARGV[3]) == 0 then return 0 end
local is_for_good = ARGV[4] == '0'
if not is_for_good then redis.call('EXPIRE', KEYS[2], ARGV[4]) end
for i = 4, #KEYS do
  if is_for_good then redis.call('PERSIST', KEYS[i]) else redis.call('EXPIRE', KEYS[i], ARGV[4]) end
end
return 1
"""

# In one step: whoever pins a snapshot and then finds it there can rely on it, and whoever dies
# leaves no chunk that nothing tells of. None of another log, which may have one of that name (0),
# nor another one than was looked at (-1).
DELETE = """
if (redis.call('GET', KEYS[3]) or '0') ~= ARGV[3] then return 0 end
if ARGV[2] ~= '1' and redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
if (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[4] then return -1 end
redis.call('HDEL', KEYS[1], ARGV[1])
for i = 4, #KEYS do redis.call('UNLINK', KEYS[i]) end
return 1
"""

# The floor first: a reader may then be refused too early, but never misses an entry. And never
# down, for whoever comes late: what was trimmed would count as lost.
TRIM = """
if ARGV[2] ~= '' and redis.call('HEXISTS', KEYS[3], ARGV[2]) == 0 then return 0 end
local function parts(cursor)
  local ms, seq = string.match(cursor, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(seq)
end
local ms, seq = parts(ARGV[1])
local floor_ms, floor_seq = parts(redis.call('GET', KEYS[1]) or '0-0')
if ms < floor_ms or (ms == floor_ms and seq < floor_seq) then return 0 end
redis.call('SET', KEYS[1], ARGV[1])
redis.call('XTRIM', KEYS[2], 'MINID', '=', ARGV[1])
return 1
"""

# A rewritten log takes the place of the log, if nothing has been added to that meanwhile (0), nor a
# snapshot of it; with all chunks of the old ones deleted, as nothing tells of them from here on.
# It has every entry that the log has, if with fewer records: else it was lost on the way, wholly,
# and begun anew by what was added last. The log may have been trimmed meanwhile, behind snapshots
# that are gone now: the new one has what comes after its own.
SWAP = """
if (redis.call('GET', KEYS[5]) or '0') ~= ARGV[1] then
  return redis.error_reply('the log has been rewritten by another')
end
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
if #last == 0 or last[1][1] ~= ARGV[2] then return 0 end
local n_mine = 6 + ARGV[3]
local is_whole = redis.call('XLEN', KEYS[2]) >= redis.call('XLEN', KEYS[1])
  and redis.call('EXISTS', KEYS[4]) == 1
for i = 7, n_mine do is_whole = is_whole and redis.call('EXISTS', KEYS[i]) == 1 end
if not is_whole then
  return redis.error_reply('the copy of the log is not whole any more: a server that is short of'
    .. ' memory may evict it')
end
local is_known = {}
for i = 4, #ARGV do is_known[ARGV[i]] = true end
for _, id in ipairs(redis.call('HKEYS', KEYS[3])) do
  if not is_known[id] then return 0 end
end
redis.call('PERSIST', KEYS[2])
redis.call('RENAME', KEYS[2], KEYS[1])
redis.call('PERSIST', KEYS[4])
redis.call('RENAME', KEYS[4], KEYS[3])
redis.call('SET', KEYS[5], ARGV[1] + 1)
local function parts(cursor)
  local ms, seq = string.match(cursor, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(seq)
end
for _, id in ipairs(redis.call('HKEYS', KEYS[3])) do
  local ms, seq = parts(id)
  local floor_ms, floor_seq = parts(redis.call('GET', KEYS[6]) or '0-0')
  if ms < floor_ms or (ms == floor_ms and seq < floor_seq) then redis.call('SET', KEYS[6], id) end
end
for i = 7, n_mine do redis.call('PERSIST', KEYS[i]) end
for i = n_mine + 1, #KEYS do redis.call('UNLINK', KEYS[i]) end
return 1
"""

# The chunks of a snapshot, unless its manifest is there: the answer to that may have been lost.
TAKE_BACK = """
if redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[2] then return end
for i = 2, #KEYS do redis.call('UNLINK', KEYS[i]) end
"""

ABANDON = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
for i = 1, #KEYS do redis.call('UNLINK', KEYS[i]) end
return 1
"""

# All or none, as for every script, where the server is out of memory. What is taken or passed was
# written by another replica, or by us before a replay.
QUARANTINE = """
if (redis.call('GET', KEYS[2]) or '0') ~= ARGV[1] then return 0 end
for i = 3, #ARGV, 2 do
  local done = redis.pcall(
    'XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], ARGV[i], 'e', ARGV[i + 1])
  if done.err and not string.find(done.err, 'equal or smaller', 1, true) then return done end
end
return 1
"""

SWAP_QUARANTINE = """
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
if #last == 0 then
  redis.call('UNLINK', KEYS[2])
  return 1
end
if last[1][1] ~= ARGV[1] then return 0 end
if redis.call('XLEN', KEYS[2]) ~= tonumber(ARGV[2]) then
  return redis.error_reply('the copy of quarantine is not whole any more')
end
if redis.call('EXISTS', KEYS[2]) == 0 then
  redis.call('XTRIM', KEYS[1], 'MAXLEN', 0)
  return 1
end
redis.call('PERSIST', KEYS[2])
redis.call('XSETID', KEYS[2], ARGV[1])
redis.call('RENAME', KEYS[2], KEYS[1])
return 1
"""
