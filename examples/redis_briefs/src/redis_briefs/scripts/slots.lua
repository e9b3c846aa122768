-- Every script begins with this one: the keys, how members of the sorted sets are made, and how a slot is read and written.
--
-- A slot is one JSON text in the hash SLOTS. Wherever slots are looked for, a sorted set has a member for each, made of
-- what is looked for and the slot's key, joined by NUL, which no part holds. Their scores are all 0: members then stand in
-- the order of their bytes, so instants are exact, and no part needs to be a number. Instants are ISO texts in UTC, all of
-- one length, so that their order as texts is their order in time.

local SLOTS, PAYLOADS, BRIEFS, SAVED, SAVED_AS, DELIVERY, OWNERS, CODES, DUE, LEASES, FENCE, MARKS, PLANS, PAUSES,
  PREFERENCES, PEOPLE, SCHEDULES, SCHEDULE_OF, HOLDERS, FORMAT = unpack(KEYS)
local NUL, INSTANT, PAGE = '\0', 26, 200

local function joined(...)
  return table.concat({...}, NUL)
end

-- Bounds of ZRANGEBYLEX: members that begin with these parts, or have a later instant in place of the last part.
local function from(...)
  return '[' .. joined(...)
end

-- ... or an earlier one.
local function before(...)
  return '(' .. joined(...)
end

-- The members that begin with these parts, and all that stand before them. As a lower bound: none of these.
local function through(...)
  return '(' .. joined(...) .. '\1'
end

local function key_of(slot)
  return slot.type .. ':' .. slot.date .. ':' .. slot.user
end

-- The last part of a member. Looked for from the end: a pattern that began at each byte would take their number squared.
local function last_part(member)
  return member:match('.*%z(.*)')
end

-- What each sorted set holds of a slot. This is all there is to the indexes: `write` brings them up to date.
local function members(slot)
  local key = key_of(slot)
  local delivery = joined(slot.type, slot.status, slot.deliver_at, key)
  return {
    [DELIVERY] = delivery,
    [OWNERS] = joined(slot.user, delivery),
    [CODES] = slot.code and joined(slot.type, slot.status, slot.code, slot.deliver_at, key),
    [DUE] = slot.status == 'pending' and joined(slot.type, slot.run_at, key) or nil,
    [LEASES] = slot.status == 'processing' and joined(slot.type, slot.lease, key) or nil,
  }
end

local standing = {} -- The members of each slot that was read, as they are now.

local function read(key)
  local text = redis.call('HGET', SLOTS, key)
  local slot = text and cjson.decode(text)
  if slot then
    standing[slot] = members(slot)
  end
  return slot
end

local function place(slot, new)
  local old = standing[slot] or {}
  for set, member in pairs(old) do
    if new[set] ~= member then
      redis.call('ZREM', set, member)
    end
  end
  for set, member in pairs(new) do
    if old[set] ~= member then
      redis.call('ZADD', set, 0, member)
    end
  end
  standing[slot] = new
end

local function write(slot)
  place(slot, members(slot))
  redis.call('HSET', SLOTS, key_of(slot), cjson.encode(slot))
end

-- Erases a slot and its payload; gives how many rows that was. Tokens come from one counter, so none ever comes again.
local function erase(slot)
  place(slot, {})
  local key = key_of(slot)
  return redis.call('HDEL', SLOTS, key) + redis.call('HDEL', PAYLOADS, key)
end

-- Gives the slots of a span of a sorted set, in its order, to a function, until that answers with true.
local function walk(set, low, high, visit)
  repeat
    local page = redis.call('ZRANGEBYLEX', set, low, high, 'LIMIT', 0, PAGE)
    for _, member in ipairs(page) do
      if visit(read(last_part(member))) then
        return
      end
    end
    low = '(' .. (page[#page] or '')
  until #page < PAGE
end

local function is_paused(type)
  return redis.call('HEXISTS', PAUSES, type) == 1
end

-- The slot of this key, if whoever shows this token holds it.
local function held(key, token)
  local slot = read(key)
  return slot and slot.status == 'processing' and slot.token == token and slot
end

local function create(job)
  job.token = 0
  write(job)
end

-- A slot becomes a new job. Its window's start stays only where a brief is saved from it.
local function replace(slot, job)
  job.token = slot.token
  job.fixed = slot.fixed and redis.call('HEXISTS', BRIEFS, key_of(slot)) == 1 or nil
  job.window_start = job.fixed and slot.window_start or job.window_start
  job.attempts, job.progress = 0, nil
  standing[job] = standing[slot]
  write(job)
end

-- A slot becomes pending in a new epoch, with nothing of the old one.
local function renew(slot, demand)
  slot.status, slot.demand, slot.epoch, slot.attempts = 'pending', demand, slot.epoch + 1, 0
  slot.code, slot.reason, slot.error, slot.progress = nil, nil, nil, nil
  write(slot)
end

-- A job is given back by whoever holds it.
local function put_back(slot, attempts)
  slot.status, slot.attempts, slot.progress, slot.lease = 'pending', attempts, nil, nil
  write(slot)
end

-- The user's latest saved brief: its date, and where its window ends.
local function last_saved(user, type)
  local found = redis.call('ZREVRANGEBYLEX', SAVED, through(user, type), from(user, type), 'LIMIT', 0, 1)[1]
  if found then
    return found:sub(-INSTANT - 11, -INSTANT - 2), found:sub(-INSTANT)
  end
end

local function erase_brief(key)
  local member = redis.call('HGET', SAVED_AS, key)
  if not member then
    return 0
  end
  redis.call('ZREM', SAVED, member)
  redis.call('HDEL', SAVED_AS, key)
  return redis.call('HDEL', BRIEFS, key)
end
