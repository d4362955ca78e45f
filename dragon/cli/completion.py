"""`dragon completion`: what makes a shell complete commands, options and task names."""

from __future__ import annotations

import threading

import click
from click.shell_completion import CompletionItem

#: Seconds that a server may take to name its tasks, before the shell's user would notice.
PATIENCE = 0.3
_INSTALL = {
    "bash": "dragon completion bash > ~/.local/share/bash-completion/completions/dragon",
    "zsh": 'dragon completion zsh > "${fpath[1]}/_dragon"',
    "fish": "dragon completion fish > ~/.config/fish/completions/dragon.fish",
}


@click.command(epilog="Install, for example: " + "; ".join(_INSTALL.values()))
@click.argument("shell", type=click.Choice(list(_INSTALL)))
def completion(shell: str) -> None:
    """Print what makes SHELL complete dragon's commands, options and (while its server answers) task names."""
    from click.shell_completion import get_completion_class

    from dragon.cli import dragon

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(dragon, {}, "dragon", "_DRAGON_COMPLETE").source())


def complete_task(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The names of tasks that begin so, when the server tells them at once; else none."""
    entries = _catalogue(context)
    return [
        CompletionItem(str(entry["name"]), help=str(entry["description"]).partition("\n")[0])
        for entry in entries
        if str(entry["name"]).startswith(incomplete)
    ]


def _catalogue(context: click.Context) -> list[dict[str, object]]:
    """Asked for in a thread: a time limit of sockets is for each of their steps, and this one is for all of them."""
    import urllib.request  # noqa: F401 - here, so that the time is the server's alone

    found: list[dict[str, object]] = []
    asking = threading.Thread(target=lambda: found.extend(_ask(context)), daemon=True)
    asking.start()
    asking.join(PATIENCE)
    return found.copy()


def _ask(context: click.Context) -> list[dict[str, object]]:
    import json
    import os
    import urllib.request

    from dragon.cli.access import DEFAULT_URL

    url = context.params.get("server_url") or os.environ.get("DRAGON_URL") or DEFAULT_URL
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/v1/tasks", timeout=PATIENCE) as answer:  # noqa: S310 - the user's
            entries = json.loads(answer.read())
        return [entry for entry in entries if isinstance(entry, dict) and {"name", "description"} <= entry.keys()]
    except (OSError, ValueError):
        return []
