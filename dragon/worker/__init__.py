"""The worker edge: an asyncio process that talks to Redis, and executor processes that run the tasks."""
