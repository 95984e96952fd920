"""`rejoinder`: every command of the project.

A command reads its settings (environment, then flags), sets the logs up, and runs. A command that cannot
start prints one line on standard error, which says what is wrong and how to mend it, without a traceback. Its
exit status is then not 0.
"""

import asyncio
import inspect
import os
import sys
import time
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime, timedelta
from importlib import import_module
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Annotated, Any, Literal

import structlog
from cyclopts import App, Parameter

from schemas.errors import RejoinderError, SettingsError
from services import logs
from services.planning.demand import DEFAULTS, TAKES
from services.process import Run, serve, until_stopped
from services.settings import SETTINGS, Setting, Settings, load, require_secret
from services.together import INTERNAL_FILES, SERVICE_URLS
from services.unsafe import unsafe

SERVICES = {
    "ingest": "Carry out what the front door asks: validate, append to the log.",
    "executor": "Run accepted responses against models and agents.",
    "replay": "Serve clients: reads and streams from the log, and commands through ingest.",
    "analytics": "Count what has ended into the topic `usage`, and answer for usage and costs.",
    "projector": "Write what closed to `responses` and `transcripts`, and announce each end in `closings`.",
}
WEBHOOKS = "Tell tenants' webhook endpoints of what has ended; without a command, as a service."
CHOSEN_BY_DEV = frozenset(
    {"internal_host", "internal_port", "admin_port", "shard", *SERVICE_URLS, *INTERNAL_FILES}
)
"""Settings that `rejoinder dev` chooses for its services: they are no flags of it."""
FAILED, BAD_SETTINGS = 1, 2
"""Exit statuses of a command that could not do its work."""

log = structlog.get_logger()

Command = Callable[..., int]
Options = dict[str, Any]
"""By name, the value of each setting's flag; None without one."""

app = App(
    name="rejoinder",
    help="The OpenAI Responses API for work that outlives its connection.",
    version_flags=[],
    result_action="return_value",
)


def main() -> None:
    """The entry point."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command. Returns its exit status; prints one line if it failed."""
    try:
        return int(app(arguments, exit_on_error=True) or 0)
    except Exception as error:
        known = reason(error)
        if known is None:
            raise
        sys.stderr.write(f"rejoinder: {' '.join(str(known).split())}\n")
        return BAD_SETTINGS if isinstance(known, SettingsError) else FAILED


def reason(error: BaseException) -> RejoinderError | None:
    """The error of ours in `error`, which may be a group. None if any other error is in it."""
    if isinstance(error, BaseExceptionGroup):
        known = [reason(inner) for inner in error.exceptions]
        return None if None in known else known[0]
    return error if isinstance(error, RejoinderError) else None


def with_settings(command: Command, leave_out: Collection[str] = ()) -> Command:
    """`command` with every setting as a flag, in place of its `**options`."""
    return with_flags(command, [_flag(known) for known in SETTINGS.values() if known.name not in leave_out])


def with_flags(command: Command, flags: Sequence[inspect.Parameter]) -> Command:
    """`command` with these flags, in place of its `**options`."""
    own = [p for p in inspect.signature(command).parameters.values() if p.kind is not p.VAR_KEYWORD]
    command.__signature__ = inspect.Signature([*own, *flags])  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in [*own, *flags]}
    return command


def _flag(setting: Setting) -> inspect.Parameter:
    return _option(setting.name, setting.takes, setting.default)


def _option(name: str, takes: str, default: str = "") -> inspect.Parameter:
    shown = Parameter(help=takes, show_default=lambda _: default or None)
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=None, annotation=Annotated[str | None, shown])


def _settings(options: Options, log_format: Literal["auto", "console"] = "auto") -> Settings:
    """The settings of the environment and the flags. Sets the logs up by them. Raises SettingsError.

    `log_format` holds if the settings say `auto`.
    """
    settings = load(os.environ, {name: text for name, text in options.items() if text is not None})
    logs.setup(settings.log_level, log_format if settings.log_format == "auto" else settings.log_format)
    return settings


def _service(name: str, what: str) -> Command:
    def command(
        *, with_parent: Annotated[bool, Parameter(show=False, negative=())] = False, **options: Any
    ) -> int:
        settings = _settings(options)
        require_secret(settings)
        for found in unsafe(name, settings):
            log.warning("not safe", setting=found.setting, what=found.what, mend=found.mend)
        run = import_module(f"services.{name}.app").run
        serve(name, lambda stop: _checked(run, settings, stop), settings.grace_s, with_parent=with_parent)
        return 0

    command.__doc__ = what
    return with_settings(command)


async def _checked(run: Run, settings: Settings, stop: asyncio.Event) -> None:
    from services.topic_setup import require_topics

    await require_topics(settings)
    await run(settings, stop)


for _name, _what in SERVICES.items():
    app.command(_service(_name, _what), name=_name)
_webhooks = App(name="webhooks", help=WEBHOOKS, version_flags=[], result_action="return_value")
_webhooks.default(_service("webhooks", WEBHOOKS))
app.command(_webhooks)


@app.command
def version() -> int:
    """Print the version."""
    sys.stdout.write(f"rejoinder {installed_version('rejoinder')}\n")
    return 0


@app.command(name="watch")
def _watch(
    id: str,
    /,
    *,
    url: str = "http://127.0.0.1:8000",
    starting_after: int = -1,
    json: Annotated[bool, Parameter(negative=())] = False,
    api_key: Annotated[str, Parameter(env_var="REJOINDER_WATCH_API_KEY", show_default=False)] = "",
    header: Annotated[tuple[str, ...], Parameter(negative=())] = (),
) -> int:
    """Follow a response in the terminal, rejoining by itself; the status is 0 when it completes.

    Parameters
    ----------
    id
        The response's id.
    url
        Where Rejoinder is.
    starting_after
        The number of the last event that is not wanted again; -1: from the start.
    json
        Print every event as a line of JSON, not the text alone.
    api_key
        The API key, where keys are asked for.
    header
        A header to send, such as "x-rejoinder-tenant: acme"; may be repeated.
    """
    from services.terminal.watch import watch

    logs.setup("warning", "console")
    return watch(id, url, starting_after, as_json=json, headers=header, api_key=api_key)


def _dev(
    *,
    data: Annotated[Path, Parameter(help="the directory for what Kafka stores")] = Path(".rejoinder"),
    without: Annotated[
        tuple[Literal["analytics", "webhooks"], ...],
        Parameter(help="a service to leave out; may be repeated", negative=(), show_default=False),
    ] = (),
    **options: Any,
) -> int:
    """Run everything on this machine: Kafka (unless --kafka names one), its topics and the services.

    Prints `ready URL` when all of it is. Ctrl-C stops everything, a second one at once.
    """
    from services.dev.system import dev

    settings = _settings(options, "console")
    chosen = {
        name for name, setting in SETTINGS.items() if options.get(name) or os.environ.get(setting.variable)
    }
    dev(settings, chosen, data, without)
    return 0


_DATA = Annotated[Path, Parameter(help="the data of `rejoinder dev`, or a log directory of any Kafka")]


@app.command(name="backup")
def _backup(file: Path, /, *, data: _DATA = Path(".rejoinder")) -> int:
    """Write what a stopped Kafka holds to a file, byte for byte. Of several brokers stop all of them first.

    Parameters
    ----------
    file
        The file to write, a tar packed with zstd. It holds every response, and the key of webhooks.
    """
    from services.broker.backup import back_up

    logs.setup("warning", "console")
    found = back_up(data, file)
    sys.stdout.write(f"backed up cluster {found.cluster}: {len(found.sums)} files, {found.bytes:,} bytes\n")
    return 0


@app.command(name="restore")
def _restore(file: Path, /, *, data: _DATA = Path(".rejoinder")) -> int:
    """Lay the data of a Kafka as it was when the file was made. Offsets and log times stay what they were.

    Parameters
    ----------
    file
        What `rejoinder backup` has written.
    """
    from services.broker.backup import restore

    logs.setup("warning", "console")
    found = restore(file, data)
    sys.stdout.write(f"restored cluster {found.cluster}: {len(found.sums)} files, {found.bytes:,} bytes\n")
    return 0


def _topics(
    *,
    create: Annotated[bool, Parameter(help="create what is missing", negative=())] = False,
    fix: Annotated[bool, Parameter(help="also mend settings that are wrong", negative=())] = False,
    **options: Any,
) -> int:
    """Check Kafka's topics, and create or mend them; the status is 0 when services can start on them.

    With --partitions, and without --create, existing topics get as many partitions, while everything serves.
    """
    from services.topic_setup import set_up_topics

    grow = options.get("partitions") is not None and not (create and not fix)
    return until_stopped(
        lambda _: set_up_topics(_settings(options), create=create or fix, fix=fix, grow=grow)
    )


def _tail(
    *,
    last: Annotated[
        timedelta | None, Parameter(help="also the ends of this time, such as 30m, 1h or 2d")
    ] = None,
    tenant: Annotated[str, Parameter(help="only those of this tenant", show_default=False)] = "",
    json: Annotated[
        bool, Parameter(help="print the records of `closings`, a line of JSON each", negative=())
    ] = False,
    **options: Any,
) -> int:
    """Follow what ends, a line each: when, whose, which model, how, how long it took, its tokens.

    Reads the topic `closings`, until Ctrl-C. Colours show on a terminal, unless NO_COLOR is set.
    """
    from services.terminal.tail import tail

    settings = _settings(options, "console")
    return tail(settings, last=last, tenant=tenant, as_json=json, now_ms=int(time.time() * 1000))


def _usage(
    *,
    last: Annotated[timedelta, Parameter(help="how far back, such as 30m, 1h or 2d")] = timedelta(hours=1),
    tenant: Annotated[str, Parameter(help="only this tenant", show_default=False)] = "",
    json: Annotated[
        bool, Parameter(help="print what each group came to, a line of JSON each", negative=())
    ] = False,
    **options: Any,
) -> int:
    """Show what has ended, by tenant and model: responses, failures, tokens, cost.

    Reads the topic `usage` to its end. Colours show on a terminal, unless NO_COLOR is set.
    """
    from services.terminal.usage import usage

    settings = _settings(options, "console")
    return usage(settings, last=last, tenant=tenant, as_json=json, now_ms=int(time.time() * 1000))


def _list(
    *,
    tenant: Annotated[str, Parameter(help="only those of this tenant", show_default=False)] = "",
    **options: Any,
) -> int:
    """List webhook endpoints, with what waits for each and what has failed. Reads the topic `webhooks`."""
    from services.terminal.webhooks import list_webhooks

    return list_webhooks(_settings(options, "console"), tenant=tenant, now_ms=int(time.time() * 1000))


def _retry(
    id: Annotated[str, Parameter(help="a delivery's id (wh_…), or an endpoint's (we_…)")], /, **options: Any
) -> int:
    """Have a delivery tried again at once, or all that failed of an endpoint."""
    from services.terminal.webhooks import retry_webhooks

    return retry_webhooks(_settings(options, "console"), id)


def _add_key(
    name: Annotated[str, Parameter(help="the key's own name, in logs and lists")],
    /,
    *,
    tenant: Annotated[str, Parameter(help="whose responses it opens", show_default=False)] = "",
    admin: Annotated[bool, Parameter(help="it reads what all tenants used", negative=())] = False,
    lasts: Annotated[
        timedelta | None, Parameter(help="how long it is taken, such as 90d; for ever without it")
    ] = None,
    **options: Any,
) -> int:
    """Make an API key, print it this once, and append its hash to the file of keys."""
    from services.terminal.keys import add_key

    settings = _settings(options, "console")
    return add_key(settings, name, tenant=tenant, admin=admin, lasts=lasts, now=datetime.now(UTC))


def _list_keys(
    *,
    tenant: Annotated[str, Parameter(help="only those of this tenant", show_default=False)] = "",
    **options: Any,
) -> int:
    """List the API keys in the file: their names, whose they are, until when they are taken."""
    from services.terminal.keys import list_keys

    return list_keys(_settings(options, "console"), tenant=tenant, now=datetime.now(UTC))


def _revoke_key(name: Annotated[str, Parameter(help="the key's name")], /, **options: Any) -> int:
    """Take an API key out of the file: services refuse it within seconds."""
    from services.terminal.keys import revoke_key

    return revoke_key(_settings(options, "console"), name)


def _acls(
    *,
    user: Annotated[str, Parameter(help="the principal of each; {} stands for the service")] = "User:{}",
    json: Annotated[bool, Parameter(help="a line of JSON for each", negative=())] = False,
    **options: Any,
) -> int:
    """Print the rights in Kafka that each service needs, as commands of Kafka's own kafka-acls.sh."""
    from services.terminal.acls import print_acls

    return print_acls(_settings(options, "console"), user=user, as_json=json)


def _plan(
    *,
    json: Annotated[bool, Parameter(help="print all figures, a line of JSON", negative=())] = False,
    **options: Any,
) -> int:
    """Say how large an installation must be for a load: processes, cores, memory, disk, network.

    By what a unit of work costs, as measured (docs/scaling.md). Asks nothing of Kafka or any service.
    """
    from services.terminal.plan import print_plan

    return print_plan({name: text for name, text in options.items() if text is not None}, as_json=json)


@app.command(name="shards")
def _shards(
    balancer: Annotated[
        Literal["nginx", "haproxy", "envoy", "gateway"], Parameter(help="whose configuration to print")
    ],
    /,
    *,
    shards: Annotated[int, Parameter(help="how many shards there are")],
    partitions: Annotated[int, Parameter(help="how many partitions the topic of events has")],
    replay: Annotated[
        tuple[str, ...],
        Parameter(
            help="HOST:PORT of a replay's public port, with {shard} in it; repeated for more replicas",
            negative=(),
        ),
    ] = ("rejoinder-replay-{shard}:8000",),
) -> int:
    """Print the configuration of a balancer that leads each response to its shard."""
    from services.terminal.balancers import print_balancer

    logs.setup("warning", "console")
    return print_balancer(balancer, shards, partitions, replay)


_webhooks.command(with_settings(_list), name="list")
_webhooks.command(with_settings(_retry), name="retry")
app.command(with_settings(_dev, CHOSEN_BY_DEV), name="dev")
app.command(with_settings(_topics), name="topics")
app.command(with_settings(_tail), name="tail")
_keys = App(
    name="keys", help="Make, list and revoke API keys.", version_flags=[], result_action="return_value"
)
_keys.command(with_settings(_add_key), name="add")
_keys.command(with_settings(_list_keys), name="list")
_keys.command(with_settings(_revoke_key), name="revoke")
app.command(_keys)
app.command(with_settings(_acls), name="acls")
app.command(with_settings(_usage), name="usage")
app.command(
    with_flags(_plan, [_option(name, takes, DEFAULTS[name]) for name, takes in TAKES.items()]), name="plan"
)

if __name__ == "__main__":
    main()
