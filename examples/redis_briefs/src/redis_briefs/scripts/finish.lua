-- Ends a job, saves its brief and queues its follow-ups; answers with 0 if the claim is lost, and changes nothing then.
local asked = cjson.decode(ARGV[1])
local BODY, PAYLOAD = ARGV[2], 2 -- Bytes stand beside the JSON: the brief's, then those of each follow-up.
local RENEWABLE = {pending = true, skipped = true, failed = true, cancelled = true}

local function save(brief)
  local key = key_of(brief)
  erase_brief(key)
  local member = joined(brief.user, brief.type, brief.deliver_at, brief.date, brief.window_end)
  redis.call('ZADD', SAVED, 0, member)
  redis.call('HSET', SAVED_AS, key, member)
  redis.call('HSET', BRIEFS, key, BODY)
end

local function follow(job, payload)
  local slot = read(key_of(job))
  if not slot then
    create(job)
  elseif RENEWABLE[slot.status] or job.demand == 'resend' then
    replace(slot, job)
  else
    return
  end
  redis.call('HSET', PAYLOADS, key_of(job), payload)
end

local slot = held(asked.key, asked.token)
if not slot then
  return 0
end
slot.status, slot.code, slot.error, slot.lease = asked.status, asked.code, asked.error, nil
slot.reason = asked.reason or slot.reason
write(slot)
if asked.brief then
  save(asked.brief)
end
for number, job in ipairs(asked.follow_ups) do
  follow(job, ARGV[PAYLOAD + number])
end
return 1
