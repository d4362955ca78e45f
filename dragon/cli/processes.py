"""The commands that run dragon's processes: `up`, `server` (run_server.py), `worker` (run_worker.py)."""

from __future__ import annotations

import contextlib
import resource
import sys
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

import click

from dragon.processes import keep_private

if TYPE_CHECKING:  # imported where it is used: `--help` needs none of it
    from dragon.config import Config

_host = click.option("--host", help="The address to listen on.  [server.host, HOST]")
_port = click.option("--port", type=int, help="The port; 0 takes a free one.  [server.port, PORT]")
#: Given by the supervisor to its children: Redis is there and checked, the port is settled.
_supervised = click.option("--supervised", is_flag=True, hidden=True)


@click.command()
@_host
@_port
def up(host: str | None, port: int | None) -> None:
    """Run all of dragon on this machine: the embedded Redis (unless DRAGON_REDIS_URL names one), server and worker."""
    keep_private()
    from dragon import supervisor
    from dragon.config import load_config

    sys.exit(supervisor.up(load_config(server__host=host, server__port=port)))


@click.command()
@_host
@_port
@click.option("--processes", type=int, help="Server processes that share the port.  [server.processes]")
@_supervised
def server(host: str | None, port: int | None, processes: int | None, supervised: bool) -> None:
    """Run the HTTP server, and the embedded Redis if it is wanted and nobody runs it yet."""
    keep_private()
    from dragon import supervisor
    from dragon.config import load_config

    config = load_config(server__host=host, server__port=port, server__processes=processes)
    if not supervised:
        config = supervisor.settle_port(config)
        if config.server.processes > 1:
            sys.exit(supervisor.serve_many(config))
    from dragon.server.app import serve

    with _redis(config, supervised) as url:
        _run(config, serve(config, url, reuse_port=config.server.processes > 1))


@click.command()
@click.option("--queues", help="The queues to serve, most urgent first: high,default,low.  [worker.queues]")
@click.option("--executors", type=int, help="Executor processes; 0: one a core.  [worker.executors]")
@click.option("--concurrency", type=int, help="`async def` tasks at a time; 0: none.  [worker.concurrency]")
@_supervised
def worker(queues: str | None, executors: int | None, concurrency: int | None, supervised: bool) -> None:
    """Run a worker, and the embedded Redis if it is wanted and nobody runs it yet."""
    keep_private()
    from dragon.config import load_config

    names = [name.strip() for name in queues.split(",") if name.strip()] if queues is not None else None
    config = load_config(worker__queues=names, worker__executors=executors, worker__concurrency=concurrency)
    from dragon.worker.main import work

    with _redis(config, supervised) as url:
        _run(config, work(config, url))


def _redis(config: Config, supervised: bool) -> contextlib.AbstractContextManager[str]:
    from dragon import embedded, supervisor

    if config.redis.url and not supervised:
        supervisor.warn_about_external(config)
    if config.redis.url or supervised:
        return contextlib.nullcontext(embedded.redis_url(config))
    return embedded.ensure(config)


def _allow_many_files() -> None:
    """As many open files as the system lets us have: each stream and each download is one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _run(config: Config, coroutine: Coroutine[Any, Any, None]) -> None:
    """Runs until done, on uvloop where there is one; one line of log an event, to standard error."""
    import asyncio

    from dragon import journal

    journal.set_up(config.log)
    _allow_many_files()
    try:
        import uvloop
    except ImportError:
        loop_factory = None
    else:
        loop_factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(coroutine)
