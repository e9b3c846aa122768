-- Erases old slots that have ended, with their briefs; answers with how many.
local asked = cjson.decode(ARGV[1])

-- Whether the user has a later slot of this type in this status, by delivery and then by key.
local function is_followed(slot, status)
  local mine = joined(slot.user, slot.type, status)
  local later = redis.call(
    'ZRANGEBYLEX', OWNERS, before(mine, slot.deliver_at, key_of(slot)), through(mine), 'LIMIT', 0, 1
  )
  return #later > 0
end

-- The latest slot stays, and so do the latest completed one and the one of the latest brief.
local function is_old(slot)
  if last_saved(slot.user, slot.type) == slot.date then
    return false
  end
  if slot.status == 'completed' then
    return is_followed(slot, 'completed')
  end
  for _, status in ipairs(asked.statuses) do
    if is_followed(slot, status) then
      return true
    end
  end
end

local erased = 0
for _, type in ipairs(asked.types) do
  for _, status in ipairs(asked.ended) do
    walk(DELIVERY, from(type, status), before(type, status, asked.before), function(slot)
      if erased < asked.limit and is_old(slot) then
        erase(slot)
        erase_brief(key_of(slot))
        erased = erased + 1
      end
      return erased == asked.limit
    end)
  end
end
return erased
