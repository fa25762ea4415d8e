"""The async twin does what the client does, without blocking the loop."""

from __future__ import annotations

import asyncio

import pytest

import privacy_gateway as pg
from tests.client.conftest import PASSWORD, House


def test_the_whole_way_on_an_event_loop(house: House) -> None:
    async def way() -> tuple[str, str]:
        url = house.gateway.url
        async with await pg.aio.login("researcher@example.org", PASSWORD, url=url) as domain:
            datasets = await domain.datasets()
            assert datasets[0].id == house.dataset.id
            assert (await domain.quote(house.job())).passes
            assert (await domain.inverse(house.job(), "rounds")).value
            job = await domain.submit(house.job(), idempotency_key="once")
            with pytest.raises(TimeoutError):
                await job.wait(timeout=0.3)
            found = await domain.job(job.id)
            assert [other.id for other in await domain.jobs()] == [found.id]
            ended = asyncio.create_task(found.wait(timeout=20))
            await job.cancel()
            await ended
            assert (await job.receipt())["job"]
            return found.id, found.status

    job_id, status = asyncio.run(way())
    assert house.researcher.job(job_id).status == status == "cancelled"


def test_refusals_come_through(house: House) -> None:
    async def refused() -> None:
        url = house.gateway.url
        async with await pg.aio.login(url=url, token=house.gateway.tokens["auditor"]) as domain:
            await domain.submit(house.job())

    with pytest.raises(pg.Refused) as caught:
        asyncio.run(refused())
    assert caught.value.code == "forbidden"
