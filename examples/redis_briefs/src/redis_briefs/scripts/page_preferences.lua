-- Gives preferences in the order of their users, after one of them.
local asked = cjson.decode(ARGV[1])
local low = asked.after and '(' .. asked.after or '-'
local rows = {}
for number, user in ipairs(redis.call('ZRANGEBYLEX', PEOPLE, low, '+', 'LIMIT', 0, asked.limit)) do
  rows[number] = {user, redis.call('HGET', PREFERENCES, user)}
end
return rows
