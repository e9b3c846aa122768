"""Settled gather beside its peers: time, memory, and for how long each holds the event loop.

    uv run --group bench python benchmarks/settle.py [--quick] [--json FILE] [--docs PAGE]

All peers run in one process, in rounds of a shuffled order, and the medians of their rounds are compared: ratios
mean something on a busy machine, microseconds less. Items that never sleep are measured in CPU time, which other
processes disturb little, and items that sleep in wall-clock time. Every result is checked; a wrong one ends the run.
A peer that is not installed is listed as missing.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import random
import subprocess
import sys
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from functools import partial
from importlib import import_module
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import anyio
from attrs import define, field, frozen

from _report import Bar, Entry, claims, is_installed, peak_kib, plot, setting, write_page
from fanout_briefs import Fulfilled, Rejected, Settled, gather_settled, iter_settled

LIMIT = 100
LAZY = 1_000_000
QUICK_LAZY = 20_000
HEARTBEATS = 50_000
ROUNDS = {10: 40, 100: 25, 1_000: 9, 10_000: 9, 100_000: 2}
QUICK = {10: 5, 100: 5, 1_000: 3}
ENOUGH = 1.5  # seconds: a peer that has used them up at one size gets no more rounds there,
TOO_SLOW = 30.0  # and one that takes more microseconds an item than this is not asked for ten times as many

Func = Callable[[int], Awaitable[int]]
Run = Callable[[Func, range], Awaitable[list[int]]]


# What an item does. Each must give the item back, so that results can be checked.


async def at_once(item: int) -> int:
    return item


async def sleep_0(item: int) -> int:
    await anyio.lowlevel.checkpoint()
    return item


async def sleep_0_asyncio(item: int) -> int:
    await asyncio.sleep(0)
    return item


async def sleep_1_ms(item: int) -> int:
    await anyio.sleep(0.001)
    return item


async def sleep_1_ms_asyncio(item: int) -> int:
    await asyncio.sleep(0.001)
    return item


SHAPES: dict[str, dict[str, Func]] = {
    "asyncio": {"returns at once": at_once, "sleep(0)": sleep_0_asyncio, "sleep(0.001)": sleep_1_ms_asyncio},
    "trio": {"returns at once": at_once, "sleep(0)": sleep_0, "sleep(0.001)": sleep_1_ms},
}
SLEEPING = (sleep_1_ms, sleep_1_ms_asyncio)


# The peers: all of them behind one signature, each as its own documentation would have it.


def values(outcomes: Iterable[Settled[int, int]]) -> list[int]:
    return [outcome.value for outcome in outcomes if isinstance(outcome, Fulfilled)]


async def settled(func: Func, items: range) -> list[int]:
    return values(await gather_settled(func, items, limit=LIMIT))


async def settled_timeout(func: Func, items: range) -> list[int]:
    return values(await gather_settled(func, items, limit=LIMIT, item_timeout=60))


async def settled_stream(func: Func, items: Iterable[int]) -> list[int]:
    async with iter_settled(func, items, limit=LIMIT) as outcomes:
        return values([outcome async for outcome in outcomes])


async def loop_with_outcomes(func: Func, items: range) -> list[int]:
    outcomes: list[Settled[int, int]] = []
    for index, item in enumerate(items):
        try:
            value = await func(item)
        except Exception as error:
            outcomes.append(Rejected(index, item, error))
        else:
            outcomes.append(Fulfilled(index, item, value))
    return values(outcomes)


async def asyncio_gather(func: Func, items: range) -> list[int]:
    return list(await asyncio.gather(*[func(item) for item in items]))


async def asyncio_gather_semaphore(func: Func, items: range) -> list[int]:
    semaphore = asyncio.Semaphore(LIMIT)

    async def bounded(item: int) -> int:
        async with semaphore:
            return await func(item)

    return list(await asyncio.gather(*[bounded(item) for item in items]))


async def asyncio_task_group(func: Func, items: range) -> list[int]:
    async def call(item: int) -> int:
        return await func(item)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(call(item)) for item in items]
    return [task.result() for task in tasks]


async def asyncio_task_group_semaphore(func: Func, items: range) -> list[int]:
    semaphore = asyncio.Semaphore(LIMIT)

    async def bounded(item: int) -> int:
        async with semaphore:
            return await func(item)

    return await asyncio_task_group(bounded, items)


async def anyio_task_group_limiter(func: Func, items: range) -> list[int]:
    limiter = anyio.CapacityLimiter(LIMIT)
    results = [-1] * len(items)

    async def bounded(index: int, item: int) -> None:
        async with limiter:
            results[index] = await func(item)

    async with anyio.create_task_group() as group:
        for index, item in enumerate(items):
            group.start_soon(bounded, index, item)
    return results


async def trio_nursery_limiter(func: Func, items: range) -> list[int]:
    trio = import_module("trio")
    limiter = trio.CapacityLimiter(LIMIT)
    results = [-1] * len(items)

    async def bounded(index: int, item: int) -> None:
        async with limiter:
            results[index] = await func(item)

    async with trio.open_nursery() as nursery:
        for index, item in enumerate(items):
            nursery.start_soon(bounded, index, item)
    return results


async def anyio_amap(func: Func, items: range) -> list[int]:
    amap = import_module("anyio").amap  # since anyio 4.15
    return list(await amap(func, items))


async def aiometer(func: Func, items: range) -> list[int]:
    run_all = import_module("aiometer").run_all
    return list(await run_all([partial(func, item) for item in items], max_at_once=LIMIT))


async def aiostream(func: Func, items: Iterable[int]) -> list[int]:
    stream = import_module("aiostream").stream
    async with stream.map(stream.iterate(items), func, ordered=True, task_limit=LIMIT).stream() as results:
        return [result async for result in results]


async def asyncer(func: Func, items: range) -> list[int]:
    async with import_module("asyncer").create_task_group() as group:
        call = group.soonify(func)
        soon = [call(item) for item in items]
    return [each.value for each in soon]


async def aiotools(func: Func, items: range) -> list[int]:
    return list(await import_module("aiotools").gather_safe([func(item) for item in items]))


async def streamable(func: Func, items: Iterable[int]) -> list[int]:
    results: AsyncIterable[int] = import_module("streamable").stream(items).map(func, concurrency=LIMIT)
    return [result async for result in results]


async def asyncio_pool(func: Func, items: range) -> list[int]:
    async with import_module("asyncio_pool").AioPool(LIMIT) as pool:
        return list(await pool.map(func, items))


async def aioitertools(func: Func, items: range) -> list[int]:
    gather = import_module("aioitertools.asyncio").gather
    return list(await gather(*[func(item) for item in items], limit=LIMIT))


@frozen
class Peer:
    """A way to run many items. ``package`` is what it needs, ``is_bounded`` whether it keeps to a limit."""

    name: str
    run: Run
    package: str = "anyio"
    is_bounded: bool = True

    @property
    def is_here(self) -> bool:
        return is_installed(self.package) and (self.run is not anyio_amap or hasattr(anyio, "amap"))


OURS, TIMED, STREAM, FLOOR = "gather_settled", "gather_settled, item_timeout", "iter_settled", "loop, same outcomes"
EVERYWHERE = [
    Peer(OURS, settled),
    Peer(TIMED, settled_timeout),
    Peer(STREAM, settled_stream),
    Peer(FLOOR, loop_with_outcomes, is_bounded=False),
    Peer("anyio group + limiter", anyio_task_group_limiter),
    Peer("anyio.amap", anyio_amap, is_bounded=False),
    Peer("aiometer", aiometer, "aiometer"),
    Peer("asyncer", asyncer, "asyncer", is_bounded=False),
]
PEERS: dict[str, list[Peer]] = {
    "asyncio": [
        *EVERYWHERE,
        Peer("asyncio.gather", asyncio_gather, is_bounded=False),
        Peer("gather + semaphore", asyncio_gather_semaphore),
        Peer("TaskGroup", asyncio_task_group, is_bounded=False),
        Peer("TaskGroup + semaphore", asyncio_task_group_semaphore),
        Peer("aiostream", aiostream, "aiostream"),
        Peer("aiotools", aiotools, "aiotools", is_bounded=False),
        Peer("streamable", streamable, "streamable"),
        Peer("asyncio-pool", asyncio_pool, "asyncio-pool"),
        Peer("aioitertools", aioitertools, "aioitertools"),
    ],
    "trio": [*EVERYWHERE, Peer("trio nursery + limiter", trio_nursery_limiter, "trio")],
}
REFERENCE = {"asyncio": "asyncio.gather", "trio": "trio nursery + limiter"}


# Time


@define
class Timings:
    """Median seconds, by (backend, shape, number of items, peer)."""

    seconds: dict[tuple[str, str, int, str], float] = field(factory=dict[tuple[str, str, int, str], float])

    def micros(self, backend: str, shape: str, size: int, peer: str) -> float | None:
        seconds = self.seconds.get((backend, shape, size, peer))
        return None if seconds is None else seconds / size * 1e6

    def ratio(self, backend: str, shape: str, size: int, peer: str, to: str) -> float | None:
        one, other = (self.seconds.get((backend, shape, size, name)) for name in (peer, to))
        return None if one is None or other is None else one / other


async def measure(backend: str, sizes: dict[int, int], timings: Timings) -> None:
    for shape, func in SHAPES[backend].items():
        for size, rounds in sizes.items():
            print(f"{backend}, {shape}, N = {size:,} …", file=sys.stderr)
            peers = [peer for peer in PEERS[backend] if peer.is_here and is_able(peer, backend, shape, size, timings)]
            spent: dict[str, list[float]] = {peer.name: [] for peer in peers}
            for _ in range(rounds):
                for peer in random.sample(peers, len(peers)):
                    if sum(spent[peer.name]) < ENOUGH:
                        spent[peer.name].append(await timed(peer, func, range(size)))
            for name, seconds in spent.items():
                timings.seconds[backend, shape, size, name] = median(seconds)


def is_able(peer: Peer, backend: str, shape: str, size: int, timings: Timings) -> bool:
    """Whether measuring a peer takes seconds and no minutes."""
    if peer.name == FLOOR and SHAPES[backend][shape] in SLEEPING:
        return False  # One after another, they would sleep for as long as it takes.
    micros = timings.micros(backend, shape, size // 10, peer.name) or 0
    return size < 100_000 or micros < TOO_SLOW or peer.name in {OURS, REFERENCE[backend], "gather + semaphore"}


async def timed(peer: Peer, func: Func, items: range) -> float:
    gc.collect()
    clock = perf_counter if func in SLEEPING else process_time
    start = clock()
    results = await peer.run(func, items)
    seconds = clock() - start
    if sorted(results) != list(items):
        raise SystemExit(f"{peer.name} returned wrong results for {len(items)} items: {results[:5]} …")
    return seconds


# For how long the event loop is held


async def longest_block(peer: Peer) -> float:
    """The longest CPU time in milliseconds between two turns of a task that runs beside the items."""
    longest = 0.0
    is_done = False

    async def beat() -> None:
        nonlocal longest
        last = process_time()
        while not is_done:
            await asyncio.sleep(0)
            now = process_time()
            longest, last = max(longest, now - last), now

    gc.collect()
    heart = asyncio.create_task(beat())
    await asyncio.sleep(0)
    await peer.run(at_once, range(HEARTBEATS))
    is_done = True
    await heart
    return longest * 1e3


async def blocks(rounds: int) -> dict[str, float]:
    peers = [peer for peer in PEERS["asyncio"] if peer.name in {OURS, STREAM, "asyncio.gather", "streamable"}]
    return {peer.name: median([await longest_block(peer) for _ in range(rounds)]) for peer in peers if peer.is_here}


# Memory of a lazy source


async def drain_settled(items: Iterable[int], *, ordered: bool = False) -> int:
    async with iter_settled(at_once, items, limit=LIMIT, ordered=ordered) as outcomes:
        return await count(outcomes)


async def count(results: AsyncIterable[object]) -> int:
    number = 0
    async for _ in results:
        number += 1
    return number


async def drain_aiostream(items: Iterable[int]) -> int:
    stream = import_module("aiostream").stream
    async with stream.map(stream.iterate(items), at_once, ordered=False, task_limit=LIMIT).stream() as results:
        return await count(results)


async def drain_streamable(items: Iterable[int]) -> int:
    return await count(import_module("streamable").stream(items).map(at_once, concurrency=LIMIT))


async def drain_gather(items: Iterable[int]) -> int:
    return len(await asyncio.gather(*[at_once(item) for item in items]))


DRAINS: dict[str, tuple[str, str, Callable[[Iterable[int]], Awaitable[int]]]] = {
    STREAM: ("anyio", "asyncio", drain_settled),
    f"{STREAM}, ordered": ("anyio", "asyncio", partial(drain_settled, ordered=True)),
    f"{STREAM}, trio": ("trio", "trio", drain_settled),
    "streamable": ("streamable", "asyncio", drain_streamable),
    "aiostream": ("aiostream", "asyncio", drain_aiostream),
    "asyncio.gather (a list)": ("anyio", "asyncio", drain_gather),
}


def drain_here(name: str, size: int) -> None:
    """Print peak MiB above an empty run, and microseconds an item, of a process of its own."""
    _, backend, drain = DRAINS[name]
    anyio.run(drain, iter(range(1_000)), backend=backend)
    before = peak_kib()
    start = process_time()
    number = anyio.run(drain, (item for item in range(size)), backend=backend)
    seconds = process_time() - start
    if number != size:
        raise SystemExit(f"{name} gave {number} results for {size} items")
    print(json.dumps({"MiB": (peak_kib() - before) / 1024, "us an item": seconds / size * 1e6}))


def drain_apart(name: str, size: int) -> dict[str, float] | None:
    if not is_installed(DRAINS[name][0]):
        return None
    command = [sys.executable, __file__, "--drain", name, "--size", str(size)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    result: dict[str, float] = json.loads(ran.stdout)
    return result


# What is printed


def table(timings: Timings, backend: str, shape: str, sizes: Iterable[int]) -> str:
    sizes = list(sizes)
    reference = REFERENCE[backend]
    rows: list[tuple[float, str]] = []
    for peer in PEERS[backend]:
        cells: list[str] = []
        for size in sizes:
            micros = timings.micros(backend, shape, size, peer.name)
            ratio = timings.ratio(backend, shape, size, peer.name, reference)
            cells.append(("-" if peer.is_here else "missing") if micros is None else f"{micros:.2f} ({ratio:.2f})")
        last = timings.micros(backend, shape, sizes[-1], peer.name)
        name = peer.name if peer.is_bounded else f"{peer.name} ¹"
        rows.append((last or 1e9, f"| {name} | " + " | ".join(cells) + " |"))
    head = f"| {backend}, {shape} | " + " | ".join(f"N = {size:,}" for size in sizes) + " |"
    return "\n".join([head, "|---|" + "---|" * len(sizes), *(row for _, row in sorted(rows))])


def bars(timings: Timings, sizes: Iterable[int], held: dict[str, float], lazy: dict[str, Any]) -> list[Bar]:
    one, zero, ms = SHAPES["asyncio"]
    big = max(size for size in sizes if size <= 10_000)
    huge = max(sizes)

    def on_asyncio(shape: str, size: int, to: str, peer: str = OURS) -> float | None:
        return timings.ratio("asyncio", shape, size, peer, to)

    ours = lazy.get(STREAM) or {}
    return [
        Bar(f"{one}, N = {big:,}: ratio to asyncio.gather", on_asyncio(one, big, "asyncio.gather"), 0.30),
        Bar(f"{one}, N = {big:,}: ratio to a loop with the same outcomes", on_asyncio(one, big, FLOOR), 2.5),
        Bar(f"{zero}, N = {big:,}: ratio to asyncio.gather", on_asyncio(zero, big, "asyncio.gather"), 0.60),
        Bar(f"event loop held by {HEARTBEATS:,} items, ms", held.get(OURS), 20),
        Bar(f"{ms}, N = {huge:,}: ratio to asyncio.gather", on_asyncio(ms, huge, "asyncio.gather"), 0.80),
        Bar(f"{ms}, N = {huge:,}: ratio to gather + semaphore", on_asyncio(ms, huge, "gather + semaphore"), 0.55),
        Bar(f"{ms}, N = 10: ratio to asyncio.gather", on_asyncio(ms, 10, "asyncio.gather"), 1.25),
        Bar(f"{ms}, N = 100: ratio to asyncio.gather", on_asyncio(ms, 100, "asyncio.gather"), 2.2),
        Bar(f"{ms}, N = 10: ratio to anyio.amap", on_asyncio(ms, 10, "anyio.amap"), 1.15),
        Bar(f"{ms}, N = 100: ratio to anyio.amap", on_asyncio(ms, 100, "anyio.amap"), 1.15),
        Bar(f"{one}, N = {big:,}, item_timeout: ratio to without one", on_asyncio(one, big, OURS, TIMED), 1.5),
        *(
            Bar(
                f"trio, {shape}, N = {big:,}: ratio to nursery + limiter",
                timings.ratio("trio", shape, big, OURS, REFERENCE["trio"]),
                0.15,
            )
            for shape in (one, zero)  # with sleeping items, the limit alone takes longer than that
        ),
        Bar(f"lazy source of {LAZY:,}: MiB above the baseline", ours.get("MiB"), 6),
        Bar(f"lazy source of {LAZY:,}: µs an item", ours.get("us an item"), 6),
    ]


def beaten_by(timings: Timings, sizes: Iterable[int]) -> list[str]:
    """Every bounded peer that is faster than ours somewhere, from 1,000 items on."""
    return [
        f"{backend}, {shape}, N = {size:,}: {peer.name} takes {ratio:.2f} of our time"
        for backend, peers in PEERS.items()
        for shape in SHAPES[backend]
        for size in sizes
        for peer in peers
        if size >= 1_000 and peer.is_bounded and peer.name not in {OURS, TIMED, STREAM}
        if (ratio := timings.ratio(backend, shape, size, peer.name, OURS)) is not None and ratio < 1
    ]


def picture(timings: Timings, size: int) -> str:
    """Plot microseconds an item."""
    groups: list[tuple[str, list[Entry]]] = []
    for shape in SHAPES["asyncio"]:
        found = [(timings.micros("asyncio", shape, size, peer.name), peer.name) for peer in PEERS["asyncio"]]
        ours = {OURS, TIMED, STREAM}
        groups.append((shape, [Entry(micros, name, name in ours) for micros, name in found if micros is not None]))
    return plot(f"Microseconds an item, {size:,} items, limit {LIMIT}, logarithmic scale", groups, lowest=0.1)


def packages() -> set[str]:
    return {peer.package for peers in PEERS.values() for peer in peers} | {"trio"}


def report(timings: Timings, sizes: Iterable[int], held: dict[str, float], lazy: dict[str, Any]) -> str:
    """Everything that was measured, as Markdown."""
    parts = [setting(packages()), claims(bars(timings, sizes, held, lazy))]
    faster = beaten_by(timings, sizes)
    parts.append(
        "\n".join(["Bounded peers that are faster from 1,000 items on:", "", *(f"- {each}" for each in faster)])
    )
    if not faster:
        parts[-1] = "No bounded peer is faster than `gather_settled` from 1,000 items on."
    parts.append(
        f"Microseconds an item, limit {LIMIT}; in brackets the ratio to `asyncio.gather`, on trio to a nursery"
    )
    parts[-1] += " with a limiter. ¹ keeps to no limit."
    parts[-1] += f" - was not asked: one after another, or more than {TOO_SLOW:.0f} µs an item at a tenth of the size."
    parts += [table(timings, backend, shape, sizes) for backend in SHAPES for shape in SHAPES[backend]]
    rows = [f"| {name} | {milliseconds:.0f} |" for name, milliseconds in held.items()]
    parts.append("\n".join([f"| {HEARTBEATS:,} items that return at once | loop held, ms |", "|---|---|", *rows]))
    cells = {
        name: "missing | " if each is None else "{MiB:.1f} | {us an item:.1f}".format(**each)
        for name, each in lazy.items()
    }
    rows = [f"| {name} | {cell} |" for name, cell in cells.items()]
    parts.append(
        "\n".join([f"| lazy source of {LAZY:,} ({QUICK_LAZY:,} if quick) | MiB | µs an item |", "|---|---|---|", *rows])
    )
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rounds of few items, for a smoke test")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here")
    parser.add_argument(
        "--docs", type=Path, metavar="PAGE", help="put the figures into this page, and a plot beside it"
    )
    parser.add_argument("--drain", choices=DRAINS, help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, default=LAZY, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.drain:
        drain_here(arguments.drain, arguments.size)
        return
    random.seed(4)
    sizes = QUICK if arguments.quick else ROUNDS
    timings = Timings()
    # Not by anyio.run(): peers on asyncio alone would be called like this.
    asyncio.run(measure("asyncio", sizes, timings))
    anyio.run(measure, "trio", sizes, timings, backend="trio")
    held = asyncio.run(blocks(1 if arguments.quick else 5))
    lazy = {name: drain_apart(name, QUICK_LAZY if arguments.quick else LAZY) for name in DRAINS}
    text = report(timings, sizes, held, lazy)
    print(text)
    if arguments.json:
        figures = [[*key, seconds] for key, seconds in timings.seconds.items()]
        everything = {"setting": setting(packages()), "seconds": figures, "held_ms": held, "lazy": lazy}
        arguments.json.write_text(json.dumps(everything, indent=1), encoding="utf-8")
    if arguments.docs:
        write_page(arguments.docs, "settle", text, picture(timings, min(max(sizes), 10_000)))


if __name__ == "__main__":
    main()
