"""A storage for fanout_briefs on a Redis server, and an example of how to write one."""

from redis_briefs.preferences import RedisPreferences
from redis_briefs.storage import RedisStorage

__all__ = ["RedisPreferences", "RedisStorage"]
