-- Begins or moves the mark of a brief; answers with the mark as it is then, or nothing.
local asked = cjson.decode(ARGV[1])
local mark = redis.call('HGET', MARKS, asked.name) or asked.start
if not mark then
  return false
end
if asked.to and asked.to > mark then
  mark = asked.to
end
redis.call('HSET', MARKS, asked.name, mark)
if asked.planned_at then
  redis.call('HSET', PLANS, asked.name, asked.planned_at)
end
return mark
