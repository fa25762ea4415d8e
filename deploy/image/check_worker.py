"""Health check of a worker's container: does it reach what it needs to find and book a job?

That the worker itself lives, the container's end says; a busy one answers no questions, on purpose.
"""

from jobs.queue import Queue
from jobs.settings import Settings
from kit.db import Database

settings = Settings()
database = Database(settings.database(), pool_size=1)
database.ping()
database.close()
queue = Queue(settings.redis_url)
queue.ping()
queue.close()
