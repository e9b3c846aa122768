-- Puts a job back until a time; answers with 0 if the claim is lost.
local asked = cjson.decode(ARGV[1])
local slot = held(asked.key, asked.token)
if not slot then
  return 0
end
slot.run_at, slot.error = asked.run_at, asked.error
put_back(slot, slot.attempts - (asked.counted and 0 or 1))
return 1
