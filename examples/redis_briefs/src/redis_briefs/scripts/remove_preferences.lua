-- Removes the preferences of these users.
for _, user in ipairs(cjson.decode(ARGV[1])) do
  forget_preference(user)
end
