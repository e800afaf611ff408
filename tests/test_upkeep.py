"""What runs beside remembering: every unit gets its vector, slowly while the machine's other processes work."""

from __future__ import annotations

import time
from pathlib import Path

import anyio
import pytest

from app.database import Database
from app.workers import upkeep
from app.workers.upkeep import Machine, Signal, keep_embedded
from tests.memory_rig import Directions, new_owner, say
from tests.rig import until


class Told(Machine):
    """A machine whose others use what the test says."""

    def __init__(self, share: float) -> None:
        super().__init__(Path("/nowhere"))
        self.share = share

    def others(self) -> float:
        return self.share


async def without_vectors(database: Database) -> int:
    return int(await database.fetchval("SELECT count(*) FROM units WHERE embedding IS NULL"))


async def test_every_unit_gets_its_vector(database: Database):
    owner = await new_owner(database)
    stored = Signal()
    async with anyio.create_task_group() as tg:
        tg.start_soon(keep_embedded, database, Directions(), stored, Told(0.0))
        for round_ in range(2):
            await say(database, owner, *(f"{round_} {n}" for n in range(10)), thread=f"t{round_}")
            stored.set()

            async def done() -> bool:
                return await without_vectors(database) == 0

            await until(done)
        tg.cancel_scope.cancel()


@pytest.mark.parametrize(("units", "characters", "left"), [(4, 1_000, 6), (64, 20, 7), (64, 3, 9)])
async def test_while_others_work_it_rests_after_each_batch(
    database: Database, monkeypatch: pytest.MonkeyPatch, units: int, characters: int, left: int
):
    monkeypatch.setattr(upkeep, "BUSY_REST", 1e9)
    monkeypatch.setattr(upkeep, "EMBEDDED_AT_ONCE", units)
    monkeypatch.setattr(upkeep, "EMBEDDED_CHARACTERS", characters)
    await say(database, await new_owner(database), *(f"turn {n}" for n in range(10)))  # of six characters each
    async with anyio.create_task_group() as tg:
        tg.start_soon(keep_embedded, database, Directions(), Signal(), Told(0.5))

        async def one_batch() -> bool:
            return await without_vectors(database) == left

        await until(one_batch)
        await anyio.sleep(0.3)
        assert await one_batch()
        tg.cancel_scope.cancel()


def test_others_are_what_the_kernel_counts_less_ourselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    own = [10.0]
    monkeypatch.setattr(time, "process_time", lambda: own[0])
    monkeypatch.setattr(upkeep.os, "sysconf", lambda _: 100)
    stat = tmp_path / "stat"
    stat.write_text("cpu 1000 0 500 8000 500 0 0 0 0 0\ncpu0 1 2 3\n")
    machine = Machine(stat)
    assert machine.others() == 0
    stat.write_text("cpu 1060 10 530 8080 520 0 0 0 0 0\ncpu0 1 2 3\n")  # 2 s of two cores, 1 s of them busy
    own[0] = 10.6
    assert machine.others() == pytest.approx(0.2)
    assert machine.others() == pytest.approx(0.2), "asked again in the same tick"


def test_where_no_kernel_tells_nobody_is_busy(tmp_path: Path):
    assert Machine(tmp_path / "nothing").others() == 0
