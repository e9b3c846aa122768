-- Records new slots; answers for each job, in order, what became of it.

local function may_be_taken_up(slot, job)
  if job.demand then
    return slot.status ~= 'processing'
  end
  return slot.status == 'skipped'
    or slot.status == 'cancelled' and (slot.code == 'superseded' or slot.code == 'paused')
end

local function plan(job)
  local slot = read(key_of(job))
  if slot and not (job.status == 'pending' and may_be_taken_up(slot, job)) then
    return 'duplicate'
  end
  local outcome = slot and 'taken_up' or 'created'
  if job.status == 'pending' and not job.demand and is_paused(job.type) then
    outcome, job.status, job.code = 'paused', 'skipped', 'paused'
  end
  if slot then
    job.epoch = slot.epoch + (outcome == 'taken_up' and 1 or 0)
    replace(slot, job)
  else
    create(job)
  end
  return outcome
end

local outcomes = {}
for number, job in ipairs(cjson.decode(ARGV[1])) do
  outcomes[number] = plan(job)
end
return outcomes
