-- Gives for each user the latest delivery before an instant of slots that are live or completed; '' where there is none.
local asked = cjson.decode(ARGV[1])

local function latest(user, instant)
  local found = ''
  for _, status in ipairs({'pending', 'processing', 'completed'}) do
    local mine = joined(user, asked.type, status)
    local member = redis.call('ZREVRANGEBYLEX', OWNERS, before(mine, instant), from(mine), 'LIMIT', 0, 1)[1]
    local at = member and member:sub(#mine + 2, #mine + 1 + INSTANT) or ''
    found = at > found and at or found
  end
  return found
end

local answers = {}
for number, each in ipairs(asked.before) do
  answers[number] = latest(each[1], each[2])
end
return answers
