"""Items at several replays are found as they are at one, and a part that is away fails the whole."""

import asyncio
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from schemas.ids import ResponseId, Tenant, item_id, parse_item_id, partition_of, response_id
from services.web.internal import Found, ReplayAway, Wanted
from services.web.items_apart import found_apart

TENANT = Tenant("t")
PARTITIONS = 4


def id_of(number: int, partition: int) -> ResponseId:
    return response_id(partition, number.to_bytes(16))


class Installation:
    """Replays that serve `blocks` of partitions: what each says, as its internal port does.

    `made` are the items by name, `said` those that only a conversation tells, by the response that has them,
    `before` the chain of responses. An answer has `most` items.
    """

    def __init__(self, blocks: Mapping[int, str], most: int = 1000) -> None:
        self.blocks = blocks
        self.most = most
        self.made: set[str] = set()
        self.said: dict[ResponseId, set[str]] = {}
        self.before: dict[ResponseId, ResponseId | None] = {}
        self.away = ""
        self.asked: list[str] = []

    async def ask(self, partition: int, wanted: Wanted) -> Found:
        who = self.blocks[partition]
        self.asked.append(who)
        if who == self.away:
            raise ReplayAway("gone")
        found, rest = Found(missing=[]), dict.fromkeys(wanted.ids)
        for id in wanted.ids if wanted.named else ():
            if (place := parse_item_id(id)) is not None:
                assert self.blocks[partition_of(place.response)] == who, "asked of one that does not serve it"
                if id in self.made:
                    found.items[id] = {"id": id}
                    del rest[id]
            if len(found.items) == self.most:
                return replace(found, left=list(rest))
        at = wanted.previous
        while at is not None and rest:
            if self.blocks[partition_of(at)] != who:
                return replace(found, left=list(rest), behind=at)
            for id in self.said.get(at, set()) & set(rest):
                found.items[id] = {"id": id}
                del rest[id]
            at = self.before.get(at)
        return replace(found, missing=list(rest))

    async def all(self, wanted: Wanted) -> Found:
        """As callers do: again for what is left."""
        items: dict[str, dict[str, object]] = {}
        while True:
            found = await found_apart(wanted, self.blocks.__getitem__, self.ask)
            items |= found.items
            if not found.left:
                return replace(found, items=items)
            assert found.items
            wanted = replace(wanted, ids=found.left)


@given(st.data(), st.integers(1, 3), st.integers(1, 5))
def test_items_are_found_as_at_one_replay(data: st.DataObject, shards: int, most: int) -> None:
    apart = Installation({p: str(p * shards // PARTITIONS) for p in range(PARTITIONS)}, most)
    whole = Installation(dict.fromkeys(range(PARTITIONS), "all"))
    chain = [id_of(number, data.draw(st.integers(0, PARTITIONS - 1))) for number in range(4)]
    names = [item_id("msg", id_of(9, p), position) for p in range(PARTITIONS) for position in range(2)]
    given_ids = [f"mine_{number}" for number in range(4)]
    made = data.draw(st.sets(st.sampled_from(names)))
    said = {id: data.draw(st.sets(st.sampled_from([*names, *given_ids]), max_size=2)) for id in chain}
    for each in (apart, whole):
        each.made, each.said = made, said
        each.before = dict(zip(chain, [*chain[1:], None], strict=True))
    ids = data.draw(st.lists(st.sampled_from([*names, *given_ids]), unique=True))
    wanted = Wanted(TENANT, data.draw(st.sampled_from([None, chain[0]])), ids)
    found, expected = asyncio.run(apart.all(wanted)), asyncio.run(whole.all(wanted))
    assert found.items == expected.items
    assert sorted(found.missing) == sorted(expected.missing)


async def test_one_replay_is_asked_once() -> None:
    alone = Installation(dict.fromkeys(range(PARTITIONS), "all"))
    ids = [item_id("msg", id_of(1, partition), 0) for partition in range(PARTITIONS)]
    await found_apart(Wanted(TENANT, id_of(2, 0), [*ids, "mine"]), alone.blocks.__getitem__, alone.ask)
    assert alone.asked == ["all"]


async def test_a_part_that_is_away_is_never_called_missing() -> None:
    apart = Installation({0: "a", 1: "a", 2: "b", 3: "b"})
    here, there = (item_id("msg", id_of(1, partition), 0) for partition in (0, 3))
    apart.made, apart.away = {here, there}, "b"
    for wanted in (Wanted(TENANT, None, [here, there]), Wanted(TENANT, id_of(5, 2), [here, "mine"])):
        with pytest.raises(ReplayAway):
            await apart.all(wanted)
