-- Moves slots by hand; answers with the keys of those that were moved.
local asked = cjson.decode(ARGV[1])
local moved = {}
for _, key in ipairs(asked.keys) do
  local slot = read(key)
  if slot and asked.applies_to[slot.status] then
    moved[#moved + 1] = key
    if asked.demand then
      renew(slot, asked.demand)
    else
      slot.status, slot.code = asked.to, asked.code
      write(slot)
    end
  end
end
return moved
