-- Tells in which format the content is; where there is none, it is in that of this release from now on.
redis.call('SETNX', FORMAT, ARGV[1])
return redis.call('GET', FORMAT)
