"""Celery as a door-bell: messages carry a run id and nothing else; the database row is the job.

Early acknowledgement, prefetch 1, JSON only, no result backend. A lost message costs one dispatcher tick,
a duplicated one costs a failed compare-and-set.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

from celery import Celery
from celery.signals import setup_logging, task_postrun, task_prerun
from kombu import pools
from kombu.exceptions import OperationalError

from app import logs
from app.settings import get_settings

logger = logging.getLogger(__name__)

GPU_QUEUE = "gpu"
DEFAULT_QUEUE = "default"
TICK_SECONDS = 5.0
DEFAULT_REDIS_URL = "redis://127.0.0.1:6379/0"


def broker_url(redis_url: str) -> str:
    """Return the URL as Celery spells it: a Unix socket is `redis+socket://` there and `unix://` in redis-py."""
    return "redis+socket://" + redis_url.removeprefix("unix://") if redis_url.startswith("unix://") else redis_url


def make_celery() -> Celery:
    """Return the Celery application, configured from the settings."""
    redis_url = get_settings().redis_url or DEFAULT_REDIS_URL
    application = Celery("plackett", broker=broker_url(redis_url), include=["app.worker.tasks"])
    application.conf.update(
        accept_content=["json"],
        task_serializer="json",
        task_ignore_result=True,
        task_acks_late=False,
        task_default_queue=DEFAULT_QUEUE,
        worker_prefetch_multiplier=1,
        # With early acknowledgement a busy worker would reserve one message more, behind a run of hours.
        worker_disable_prefetch=True,
        worker_hijack_root_logger=False,
        broker_connection_retry_on_startup=True,
        # A publisher must never hold up a request: one quick try, then the dispatcher's next tick sends it.
        task_publish_retry=False,
        broker_transport_options={"socket_connect_timeout": 2, "socket_timeout": 5, "max_retries": 1},
        # No "expires": it compares the clocks of two machines, and a tick too many does no harm.
        beat_schedule={"tick": {"task": "plackett.tick", "schedule": TICK_SECONDS}},
        timezone="UTC",
    )
    return application


celery = make_celery()


@setup_logging.connect
def _set_up_logging(**_: Any) -> None:
    """Log as all our processes do, in the place of Celery's own way."""
    logs.configure("beat" if "beat" in sys.argv else "gpu-worker" if GPU_QUEUE in sys.argv else "worker")


@task_prerun.connect
def _name_job(task_id: str, task: Any, **_: Any) -> None:
    logs.bind({"job_id": task_id, "job": task.name})


@task_postrun.connect
def _forget_job(**_: Any) -> None:
    logs.bind({})


def reset_broker() -> None:
    """Follow a `REDIS_URL` that has changed since this module was imported."""
    celery.conf.update(broker_url=broker_url(get_settings().redis_url or DEFAULT_REDIS_URL))
    pools.reset()  # closes the connections to the old one
    vars(celery).pop("amqp", None)  # a cached property, which holds on to its pool


def gpu_queue(gpus: int) -> str:
    """Return the queue of runs that ask for so many GPUs. A worker serves those of all sizes that fit into it."""
    return GPU_QUEUE if gpus == 1 else f"{GPU_QUEUE}-{gpus}"


def worker_command(queue: str) -> list[str]:
    """Return the command that starts a worker for one queue, the same one everywhere.

    One task at a time in the worker's own process (`solo`): the GPU task only watches its child, and so a
    termination signal reaches the code that hands the run back, and no fork ever copies a database connection.
    """
    return [
        *(sys.executable, "-m", "celery", "--quiet", "-A", "app.queue", "worker", "--queues", queue, "--pool", "solo"),
        *("--hostname", f"{queue}@%h", "--without-gossip", "--without-mingle", "--loglevel", "INFO"),
    ]


def beat_command(schedule_file: Path) -> list[str]:
    """Return the command that starts beat. Its file may be lost: what is due is decided in Postgres."""
    return [
        *(sys.executable, "-m", "celery", "--quiet", "-A", "app.queue", "beat", "--loglevel", "INFO"),
        *("--schedule", str(schedule_file), "--pidfile", ""),
    ]


def ring(task: str, queue: str, *args: str) -> bool:
    """Send a message now; return False, and log it, when the broker is down (the row waits for the next tick)."""
    try:
        celery.send_task(task, args=args, queue=queue, ignore_result=True)
    except (OperationalError, OSError) as error:
        logger.warning("broker does not answer, %s %s waits for the dispatcher: %s", task, args, type(error).__name__)
        return False
    return True
