-- Moves leases and records progress; answers with the keys whose claims are good.
local asked = cjson.decode(ARGV[1])
local kept = {}
for _, claim in ipairs(asked.claims) do
  local slot = held(claim.key, claim.token)
  if slot then
    slot.lease, slot.progress = asked.lease, claim.progress or slot.progress
    write(slot)
    kept[#kept + 1] = claim.key
  end
end
return kept
