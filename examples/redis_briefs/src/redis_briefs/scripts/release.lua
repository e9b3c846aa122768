-- Puts jobs back as though they had not been claimed.
for _, claim in ipairs(cjson.decode(ARGV[1])) do
  local slot = held(claim.key, claim.token)
  if slot then
    put_back(slot, slot.attempts - 1)
  end
end
