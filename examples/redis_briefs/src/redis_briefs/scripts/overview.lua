-- Tells how the slots of each type stand, as JSON. Counting is by the sorted sets; only what is in trouble, and what was
-- abandoned, is read.
local asked = cjson.decode(ARGV[1])

local function count(set, low, high)
  return redis.call('ZLEXCOUNT', set, low, high)
end

local function oldest(type)
  local first = redis.call('ZRANGEBYLEX', DUE, from(type), through(type, asked.now), 'LIMIT', 0, 1)[1]
  local found = first and first:sub(#type + 2, #type + 1 + INSTANT)
  walk(LEASES, from(type), through(type, asked.now), function(slot)
    found = found and found < slot.run_at and found or slot.run_at
  end)
  return found
end

local function endings(type)
  local ended, codes = {}, {}
  for _, status in ipairs(asked.ended) do
    ended[status] = count(DELIVERY, from(type, status, asked.since), through(type, status))
    for _, code in ipairs(asked.codes) do
      codes[code] = (codes[code] or 0) + count(CODES, from(type, status, code, asked.since), through(type, status, code))
    end
  end
  return ended, codes
end

local function troubles(type)
  local found, list = {}, {}
  for _, status in ipairs(asked.troubled) do
    walk(DELIVERY, from(type, status, asked.since), through(type, status), function(slot)
      local kind = slot.error and joined(status, slot.error) or status
      if not found[kind] then
        found[kind] = {status = status, error = slot.error, count = 0}
        list[#list + 1] = found[kind]
      end
      found[kind].count, found[kind].latest = found[kind].count + 1, slot.deliver_at -- The latest comes last.
    end)
  end
  return list
end

local function overview(type)
  local ended, codes = endings(type)
  return {
    mark = redis.call('HGET', MARKS, type) or nil,
    planned_at = redis.call('HGET', PLANS, type) or nil,
    paused_since = redis.call('HGET', PAUSES, type) or nil,
    running = count(LEASES, through(type, asked.now), through(type)),
    abandoned = count(LEASES, from(type), through(type, asked.now)),
    overdue = count(DUE, from(type), through(type, asked.now)),
    soon = count(DUE, through(type, asked.now), through(type, asked.soon)),
    later = count(DUE, through(type, asked.soon), through(type)),
    oldest = oldest(type),
    ended = ended,
    codes = codes,
    troubles = troubles(type),
  }
end

local answers = {}
for _, type in ipairs(asked.types) do
  answers[type] = overview(type)
end
return cjson.encode(answers)
