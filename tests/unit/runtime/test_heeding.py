"""A cancellation that is forgotten on the way counts all the same."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from engram_runtime.heeding import heeding


async def forgetful(fails: bool) -> str:
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.Event().wait()
    if fails:
        raise OSError
    return "there"


@pytest.mark.parametrize("fails", [False, True])
async def test_a_task_that_was_cancelled_is(fails: bool) -> None:
    task = asyncio.create_task(heeding(forgetful)(fails))
    await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


async def test_what_nobody_cancelled_is_passed_on() -> None:
    async def there() -> str:
        return "there"

    async def failed() -> str:
        raise OSError

    assert await heeding(there)() == "there"
    with pytest.raises(OSError):
        await heeding(failed)()


async def test_one_that_was_cancelled_before_may_still_clean_up() -> None:
    async def there() -> str:
        return "there"

    async def cleaning() -> str:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return await heeding(there)()

    task = asyncio.create_task(cleaning())
    await asyncio.sleep(0)
    task.cancel()

    assert await task == "there"
