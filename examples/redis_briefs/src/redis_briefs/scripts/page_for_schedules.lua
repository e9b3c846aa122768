-- Gives active preferences that have one of these schedules, schedule by schedule, of the first one after a user.
local asked = cjson.decode(ARGV[1])
local rows = {}
for _, schedule in ipairs(asked.schedules) do
  local low = asked.after and schedule == asked.last and before(schedule, asked.after) or from(schedule)
  local left = asked.limit - #rows
  for _, member in ipairs(redis.call('ZRANGEBYLEX', HOLDERS, low, through(schedule), 'LIMIT', 0, left)) do
    local user = last_part(member)
    rows[#rows + 1] = {user, redis.call('HGET', PREFERENCES, user)}
  end
end
return rows
