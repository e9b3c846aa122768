-- Pauses types; answers with how many of them were not paused already.
local asked = cjson.decode(ARGV[1])
local begun = 0
for _, type in ipairs(asked.types) do
  begun = begun + redis.call('HSETNX', PAUSES, type, asked.at)
end
return begun
