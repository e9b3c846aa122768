-- Gives the body of the user's latest saved brief, or nothing.
local type, user = ARGV[1], ARGV[2]
local date = last_saved(user, type)
return date and redis.call('HGET', BRIEFS, key_of({type = type, date = date, user = user}))
