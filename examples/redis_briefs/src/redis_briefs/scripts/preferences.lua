-- Every script also has this: how a preference is kept, and found by its schedule.
--
-- HOLDERS has a member for each active preference, its schedule and its user; SCHEDULES counts those of each schedule.

local function leave_schedule(user)
  local schedule = redis.call('HGET', SCHEDULE_OF, user)
  if schedule then
    redis.call('HDEL', SCHEDULE_OF, user)
    redis.call('ZREM', HOLDERS, joined(schedule, user))
    if redis.call('HINCRBY', SCHEDULES, schedule, -1) == 0 then
      redis.call('HDEL', SCHEDULES, schedule)
    end
  end
end

local function join_schedule(user, schedule)
  redis.call('HSET', SCHEDULE_OF, user, schedule)
  redis.call('ZADD', HOLDERS, 0, joined(schedule, user))
  redis.call('HINCRBY', SCHEDULES, schedule, 1)
end

local function forget_preference(user)
  leave_schedule(user)
  redis.call('ZREM', PEOPLE, user)
  return redis.call('HDEL', PREFERENCES, user)
end
