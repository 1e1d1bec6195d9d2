"""Reading TikMatrix's job list from its newest end, in whichever order it comes.

The order of rows is not documented, and a list can be a million rows long. Ids are taken to grow
with time and never to be given twice; no page says so, and nothing here would notice otherwise.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable

from tikmatrix_tasks.client import MAX_PAGE_SIZE, TikMatrixClient
from tikmatrix_tasks.errors import NoAnswerError, UnsortedJobs
from tikmatrix_tasks.jobs import Job, JobPage

MOST_UNSORTED_PAGES = 50


async def newest_job_id(client: TikMatrixClient) -> int:
    """The highest job id, 0 when there is no job."""
    async for page in _pages_from_newest(client, None):
        return max((job.id for job in page), default=0)
    return 0


async def jobs_after(client: TikMatrixClient, job_id: int, script_name: str | None) -> list[Job]:
    """All jobs (of a script) with a higher id. A row that moves between pages may be missed."""
    newer: dict[int, Job] = {}
    async for page in _pages_from_newest(client, script_name):
        newer.update({job.id: job for job in page if job.id > job_id})
        if any(job.id <= job_id for job in page):
            break
    return list(newer.values())


async def _pages_from_newest(
    client: TikMatrixClient, script_name: str | None
) -> AsyncIterator[list[Job]]:
    """Pages of jobs, the one with the newest first; an unsorted list comes as one page."""

    async def read_page(page: int) -> JobPage:
        answer = await client.list_jobs(script_name=script_name, page=page, page_size=MAX_PAGE_SIZE)
        if answer.unreadable_rows:  # one of them may be the very job that is looked for
            raise NoAnswerError("GET /task", f"{answer.unreadable_rows} unreadable rows")
        return answer

    async def read(page: int) -> list[Job]:
        return list((await read_page(page)).jobs)

    first = await read_page(1)
    ids = [job.id for job in first.jobs]
    one_page = len(ids) < MAX_PAGE_SIZE and (first.total is None or first.total <= len(ids))
    if one_page:
        yield list(first.jobs)
    elif ids == sorted(ids, reverse=True):
        page, rows = 1, list(first.jobs)
        while rows:
            yield rows
            page += 1
            rows = await read(page)
            if rows and rows[0].id >= max(ids):  # a server that ignores the page's number
                return
    elif ids == sorted(ids):
        last = math.ceil(first.total / len(ids)) if first.total else await _last_page(read)
        newest = [await read(last) if last > 1 else list(first.jobs)]
        while rows := await read(last + len(newest)):  # jobs that were created meanwhile
            if rows[0].id <= ids[0]:  # a server that ignores the page's number
                break
            newest.append(rows)
        for rows in reversed(newest):
            yield rows
        for page in range(last - 1, 1, -1):
            yield await read(page)
        if last > 1:
            yield list(first.jobs)
    else:
        everything = list(first.jobs)
        for page in range(2, MOST_UNSORTED_PAGES + 1):
            rows = await read(page)
            if not rows:
                yield everything
                return
            everything += rows
        raise UnsortedJobs(MOST_UNSORTED_PAGES)


async def _last_page(read: Callable[[int], Awaitable[list[Job]]]) -> int:
    """The last page that holds a row, by doubling and halving: not every list says its total."""
    full, empty = 1, 2
    while await read(empty):
        full, empty = empty, empty * 2
    while empty - full > 1:
        middle = (full + empty) // 2
        if await read(middle):
            full = middle
        else:
            empty = middle
    return full
