"""`rejoinder acls`: prints the rights in Kafka that each service needs, for whoever gives them out."""

import shlex
from collections.abc import Iterable

import msgspec

from services.acls import Acl, acls
from services.settings import Settings
from services.terminal.printing import say, say_json, until_enough

_LINE = "kafka-acls.sh --bootstrap-server {kafka} --add --allow-principal {principal}"


def print_acls(settings: Settings, *, user: str, as_json: bool) -> int:
    """Print all rights, as commands of Kafka's own tool or as a line of JSON each. Returns 0.

    `user` is the principal of each service: `{}` stands for its name.
    """
    found = acls(settings)

    def lines() -> None:
        for acl in found:
            if as_json:
                say_json(
                    msgspec.json.encode({**msgspec.to_builtins(acl), "principal": _principal(user, acl)})
                )
        if not as_json:
            say("".join(f"{line}\n" for line in commands(found, settings.kafka, user)))

    until_enough(lines)
    return 0


def commands(found: Iterable[Acl], kafka: str, user: str) -> Iterable[str]:
    """A command of Kafka's own tool for each of the rights."""
    for acl in found:
        start = _LINE.format(kafka=shlex.quote(kafka), principal=shlex.quote(_principal(user, acl)))
        operations = " ".join(f"--operation {operation}" for operation in acl.operations)
        yield f"{start} --{acl.resource} {acl.name} --resource-pattern-type literal {operations}"


def _principal(user: str, acl: Acl) -> str:
    return user.replace("{}", acl.who)
