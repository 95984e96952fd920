"""Configurations of balancers that lead each response to the shard that serves it.

    /v1/responses/resp_{partition: 4 hex digits}{32 more}…   to a replay of the partition's shard
    all else                                                 to any replay: POSTs, models, usage, schemas

Where a shard's replays do not listen, those of others are asked: a read that comes to them is passed on, or
answered with a 503 as clients expect it. So a balancer that knows nothing of shards is right as well, and
costs a hop.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

from msgspec import Struct

from schemas.errors import RejoinderError
from schemas.ids import ENTROPY_BYTES, MAX_PARTITIONS
from schemas.shards import Shard

Balancer = Literal["nginx", "haproxy", "envoy", "gateway"]
DIGITS = 4
"""Hex digits of the partition in an id (P-1)."""
ENTROPY_DIGITS = 2 * ENTROPY_BYTES
LONGEST_S = 8 * 3600
"""Seconds without a byte after which a balancer may give up: longer than any response may stay open."""


class NoSuchShards(RejoinderError):
    """The shards cannot be, or have no address: what is wrong, and how to mend it."""


class Layout(Struct, frozen=True):
    """How many partitions there are, and the HOST:PORT of the replays of each shard."""

    partitions: int
    replays: Sequence[Sequence[str]]

    def blocks(self) -> Iterator[tuple[int, range, Sequence[str]]]:
        """Each shard, its partitions and its replays."""
        for index, replays in enumerate(self.replays):
            yield index, Shard(index, len(self.replays)).partitions(self.partitions), replays

    def others(self, replays: Sequence[str]) -> Sequence[str]:
        """The replays of the other shards."""
        return [replay for replay in self.all if replay not in replays]

    @property
    def all(self) -> Sequence[str]:
        """The replays of all shards."""
        return [replay for replays in self.replays for replay in replays]


def layout(shards: int, partitions: int, replays: Sequence[str]) -> Layout:
    """`replays` are HOST:PORT with `{shard}` in it, one for each replica. Raises NoSuchShards."""
    if not 1 <= partitions <= MAX_PARTITIONS:
        raise NoSuchShards(f"{partitions} partitions cannot be: a topic has 1 to {MAX_PARTITIONS}")
    if not 1 <= shards <= partitions:
        raise NoSuchShards(f"{partitions} partitions cannot be {shards} shards: have 1 to {partitions}")
    for replay in replays:
        if "{shard}" not in replay and shards > 1:
            raise NoSuchShards(f"{replay} would be in every shard: write {{shard}} where its number is")
    return Layout(
        partitions, [[replay.replace("{shard}", str(n)) for replay in replays] for n in range(shards)]
    )


def print_balancer(balancer: Balancer, shards: int, partitions: int, replays: Sequence[str]) -> int:
    """Print the configuration of a balancer. Raises NoSuchShards."""
    sys.stdout.write(balancer_text(balancer, layout(shards, partitions, replays)))
    return 0


def balancer_text(balancer: Balancer, of: Layout) -> str:
    """The configuration of a balancer."""
    return _TEXTS[balancer](of)


def hex_pattern(block: range) -> str:
    """A regular expression for the partitions of a block, as ids have them."""
    return "|".join(_patterns(block.start, block.stop - 1, DIGITS))


def _patterns(low: int, high: int, digits: int) -> Iterator[str]:
    """Patterns that match exactly the numbers from `low` to `high`, of so many hex digits."""
    if digits == 0:
        yield ""
        return
    size = 16 ** (digits - 1)
    first, last = low // size, high // size
    if first == last:
        yield from (f"{first:x}{rest}" for rest in _patterns(low % size, high % size, digits - 1))
        return
    begins, ends = low % size == 0, high % size == size - 1
    if not begins:
        yield from (f"{first:x}{rest}" for rest in _patterns(low % size, size - 1, digits - 1))
    whole = range(first + (not begins), last + ends)
    if whole:
        one = f"[{whole[0]:x}-{whole[-1]:x}]" if len(whole) > 1 else f"{whole[0]:x}"
        yield one + "[0-9a-f]" * (digits - 1)
    if not ends:
        yield from (f"{last:x}{rest}" for rest in _patterns(0, high % size, digits - 1))


def _path_pattern(block: range) -> str:
    return f"/v1/responses/resp_({hex_pattern(block)})[0-9a-f]{{{ENTROPY_DIGITS}}}(/.*)?"


def _made_by(balancer: Balancer, of: Layout) -> str:
    what = f"{len(of.replays)} shards of {of.partitions} partitions"
    return f"# {what}. Made by `rejoinder shards {balancer}`; make it anew when either number changes.\n"


def _nginx(of: Layout) -> str:
    ways = [f'    "~^{_path_pattern(block)}$" rejoinder_shard_{n};' for n, block, _ in of.blocks()]
    groups = [_nginx_group("rejoinder_any", of.all, ())]
    for n, _, replays in of.blocks():
        groups.append(_nginx_group(f"rejoinder_shard_{n}", replays, of.others(replays)))
    return f"""{_made_by("nginx", of)}# To be included in the http block.
map $uri $rejoinder_shard {{
    default rejoinder_any;
{chr(10).join(ways)}
}}
{"".join(groups)}server {{
    listen 8080;
    large_client_header_buffers 4 64k;
    location / {{
        proxy_pass http://$rejoinder_shard;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_set_header Host $http_host; # replay compares it with Origin
        proxy_buffering off; # events go out as they come
        proxy_pass_header X-Accel-Buffering; # for a proxy in front of this one
        proxy_request_buffering off;
        client_max_body_size 0; # replay bounds bodies, and says so
        proxy_connect_timeout 2s;
        proxy_read_timeout {LONGEST_S}s; # a POST may wait for its response
        proxy_send_timeout {LONGEST_S}s; # replay drops a reader that takes nothing
    }}
}}
"""


def _nginx_group(name: str, replays: Sequence[str], others: Sequence[str]) -> str:
    servers = [f"    server {replay} fail_timeout=1s;" for replay in replays]
    servers += [f"    server {replay} fail_timeout=1s backup;" for replay in others]
    return f"upstream {name} {{\n{chr(10).join(servers)}\n    keepalive 256;\n}}\n"


def _haproxy(of: Layout) -> str:
    count = len(of.replays)
    shard = f"path,field(4,/),bytes(5,{DIGITS}),hex2i,mul({count}),div({of.partitions})"
    ids = f"^/v1/responses/resp_[0-9a-f]{{{DIGITS + ENTROPY_DIGITS}}}(/|$)"
    backends = [_haproxy_backend("rejoinder_any", of.all, ())]
    for n, _, replays in of.blocks():
        backends.append(_haproxy_backend(f"rejoinder_shard_{n}", replays, of.others(replays)))
    return f"""{_made_by("haproxy", of)}defaults
    mode http
    timeout connect 2s
    timeout client {LONGEST_S}s # replay drops a reader that takes nothing
    timeout server {LONGEST_S}s # a POST may wait for its response
    timeout http-request 30s
    option redispatch 1

frontend rejoinder
    bind :8080
    # partition · shards div partitions: no such backend for a partition that was added since, so any
    use_backend rejoinder_shard_%[{shard}] if {{ path -m reg {ids} }}
    default_backend rejoinder_any
{"".join(backends)}"""


def _haproxy_backend(name: str, replays: Sequence[str], others: Sequence[str]) -> str:
    lines = [
        *(f"    server {_name(replay)} {replay} check inter 1s fall 2 rise 1" for replay in replays),
        *(f"    server {_name(replay)} {replay} check inter 1s fall 2 rise 1 backup" for replay in others),
    ]
    option = "    option httpchk GET /readyz\n    option allbackups\n"
    return f"\nbackend {name}\n{option}{chr(10).join(lines)}\n"


def _name(replay: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in replay)


def _envoy(of: Layout) -> str:
    routes = [
        f"- match: {{safe_regex: {{regex: '{_path_pattern(block)}'}}}}\n"
        f"  route: {{cluster: rejoinder_shard_{n}, timeout: 0s, idle_timeout: {LONGEST_S}s}}\n"
        for n, block, _ in of.blocks()
    ]
    clusters = [_envoy_cluster("rejoinder_any", [of.all])]
    for n, _, replays in of.blocks():
        clusters.append(_envoy_cluster(f"rejoinder_shard_{n}", [replays, of.others(replays)]))
    return f"""{_made_by("envoy", of)}# Not run here. The routes of a virtual host, and the clusters.
routes:
{"".join(routes)}- match: {{prefix: /}}
  route: {{cluster: rejoinder_any, timeout: 0s, idle_timeout: {LONGEST_S}s}}
clusters:
{"".join(clusters)}"""


_ENVOY_CHECK = "timeout: 1s, interval: 1s, unhealthy_threshold: 2, healthy_threshold: 1"


def _envoy_cluster(name: str, tiers: Sequence[Sequence[str]]) -> str:
    groups = []
    for priority, replays in enumerate(tiers):
        ends = [
            f"        - endpoint: {{address: {{socket_address: {{address: {host}, port_value: {port}}}}}}}\n"
            for host, _, port in (replay.rpartition(":") for replay in replays)
        ]
        if ends:
            groups.append(f"    - priority: {priority}\n      lb_endpoints:\n{''.join(ends)}")
    return f"""- name: {name}
  type: STRICT_DNS
  connect_timeout: 2s
  health_checks:
  - {{{_ENVOY_CHECK}, http_health_check: {{path: /readyz}}}}
  load_assignment:
    cluster_name: {name}
    endpoints:
{"".join(groups)}"""


def _gateway(of: Layout) -> str:
    rules = [
        _gateway_rule(f"{{type: RegularExpression, value: '{_path_pattern(block)}'}}", replays)
        for _, block, replays in of.blocks()
    ]
    return f"""{_made_by("gateway", of)}# Not run here: a gateway need not take regular expressions.
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: rejoinder
spec:
  parentRefs: [{{name: gateway}}]
  rules:
{"".join(rules)}{_gateway_rule("{type: PathPrefix, value: /}", of.all)}"""


def _gateway_rule(path: str, replays: Sequence[str]) -> str:
    ends = [f"{{name: {host}, port: {port}}}" for host, _, port in (each.rpartition(":") for each in replays)]
    return f"""  - matches: [{{path: {path}}}]
    timeouts: {{request: 0s, backendRequest: 0s}}
    backendRefs: [{", ".join(ends)}]
"""


_TEXTS: Mapping[Balancer, Callable[[Layout], str]] = {
    "nginx": _nginx,
    "haproxy": _haproxy,
    "envoy": _envoy,
    "gateway": _gateway,
}
