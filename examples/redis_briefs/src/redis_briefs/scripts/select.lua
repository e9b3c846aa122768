-- Gives of each type and status the first slots from an instant on, or after a slot; whoever asks puts them in one order.
local asked = cjson.decode(ARGV[1])
local slots = {}
for _, type in ipairs(asked.types) do
  for _, status in ipairs(asked.statuses) do
    local low = asked.after and before(type, status, asked.since, asked.after) or from(type, status, asked.since)
    local page = redis.call('ZRANGEBYLEX', DELIVERY, low, through(type, status), 'LIMIT', 0, asked.limit)
    for _, member in ipairs(page) do
      slots[#slots + 1] = redis.call('HGET', SLOTS, last_part(member))
    end
  end
end
return slots
