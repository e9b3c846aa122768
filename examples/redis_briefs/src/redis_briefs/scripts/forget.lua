-- Erases everything about a user; answers with how many rows that was.
local user = ARGV[1]
local rows = forget_preference(user)
walk(OWNERS, from(user), through(user), function(slot)
  rows = rows + erase(slot)
end)
for _, member in ipairs(redis.call('ZRANGEBYLEX', SAVED, from(user), through(user))) do
  local type = member:sub(#user + 2):match('^[^%z]*')
  rows = rows + erase_brief(key_of({type = type, date = member:sub(-INSTANT - 11, -INSTANT - 2), user = user}))
end
return rows
