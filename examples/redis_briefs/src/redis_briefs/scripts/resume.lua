-- Ends pauses; answers with how many slots became pending, or with nothing if nothing was paused.
local asked = cjson.decode(ARGV[1])
local resumed, was_paused = 0, false

local function resume(type)
  walk(DELIVERY, from(type, 'pending'), before(type, 'pending', asked.since), function(slot)
    if not slot.demand then
      slot.status, slot.code = 'cancelled', 'paused'
      write(slot)
    end
  end)
  for _, status in ipairs({'skipped', 'cancelled'}) do
    local paused = joined(type, status, 'paused')
    walk(CODES, from(paused, asked.since), through(paused), function(slot)
      renew(slot, nil)
      resumed = resumed + 1
    end)
  end
end

for _, type in ipairs(asked.types) do
  if redis.call('HDEL', PAUSES, type) == 1 then
    was_paused = true
    resume(type)
  end
end
return was_paused and resumed
