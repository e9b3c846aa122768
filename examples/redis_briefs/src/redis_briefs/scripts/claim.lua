-- Takes the longest due jobs; answers with their slots and payloads, and with when the first lease of others ends.
local asked = cjson.decode(ARGV[1])
local due, held_until = {}, ''

-- An earlier live slot of the same user and type goes first.
local function waits(slot)
  for _, status in ipairs({'pending', 'processing'}) do
    local mine = joined(slot.user, slot.type, status)
    local earlier = redis.call('ZRANGEBYLEX', OWNERS, from(mine), before(mine, slot.deliver_at), 'LIMIT', 0, 1)
    if #earlier > 0 then
      return true
    end
  end
end

-- Answers whether a slot is one that a worker holds and that would be due; takes note of it, or of one that is to be had.
local function look_at(slot)
  if slot.status == 'processing' and slot.lease > asked.now then
    if slot.run_at > asked.due_by then
      return false
    end
    held_until = (held_until == '' or slot.lease < held_until) and slot.lease or held_until
    return true
  end
  local is_due = slot.status == 'processing' or slot.status == 'pending' and slot.run_at <= asked.due_by
  if is_due and not waits(slot) then
    due[#due + 1] = slot
  end
  return false
end

local function look_at_type(type)
  walk(LEASES, from(type), through(type), look_at) -- The expired ones come first; the first held one ends it.
  local enough = #due + asked.limit
  walk(DUE, from(type), through(type, asked.due_by), function(slot)
    look_at(slot)
    return #due == enough
  end)
end

local function look_at_keys(keys, type)
  for _, key in ipairs(keys) do
    local slot = read(key)
    if slot and slot.type == type then
      look_at(slot)
    end
  end
end

-- The first claim fixes where the window starts: where the user's latest saved brief ended, but not beyond its own end.
local function fix_window(slot)
  local _, ended = last_saved(slot.user, slot.type)
  if ended then
    slot.window_start = ended < slot.window_end and ended or slot.window_end
  end
  slot.fixed = true
end

local function take(slot)
  if not slot.fixed then
    fix_window(slot)
  end
  slot.status, slot.attempts, slot.lease = 'processing', slot.attempts + 1, asked.lease
  slot.token = redis.call('INCR', FENCE)
  write(slot)
end

for _, type in ipairs(asked.types) do
  if is_paused(type) then
    -- Nobody is given any of these, nor has to wait for them.
  elseif asked.keys then
    look_at_keys(asked.keys, type)
  else
    look_at_type(type)
  end
end

-- All are chosen before any is taken: taking one does not free another.
table.sort(due, function(one, other)
  return one.run_at < other.run_at
end)
local claims = {}
for number = 1, math.min(asked.limit, #due) do
  take(due[number])
  local key = key_of(due[number])
  claims[number] = {redis.call('HGET', SLOTS, key), redis.call('HGET', PAYLOADS, key)}
end
return {held_until, claims}
