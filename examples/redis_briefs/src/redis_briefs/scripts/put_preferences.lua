-- Stores preferences, each in place of what was stored for its user.
for _, row in ipairs(cjson.decode(ARGV[1])) do
  leave_schedule(row.user)
  redis.call('ZADD', PEOPLE, 0, row.user)
  redis.call('HSET', PREFERENCES, row.user, row.fields)
  if row.schedule then
    join_schedule(row.user, row.schedule)
  end
end
