"""A coordinator leads for as long as it renews, answers nobody afterwards, and ends."""

import asyncio
import math
import time
from typing import Any

import grpc.aio
import pytest

from cairnfs.base.settings import CoordinatorSettings
from cairnfs.coordinator.assembly import Coordinator
from cairnfs.coordinator.leading import keep_leading
from cairnfs.engine.interface import (
    EngineDeposed,
    EngineError,
    EngineUnreachable,
)
from cairnfs.engine.memory import MemoryEngine
from cairnfs.rpc.v1 import metadata_pb2 as pb, metadata_pb2_grpc

TERM_S = 0.2


class LedEngine(MemoryEngine):
    """A memory engine with terms; each renewal does what `answers` says, and the last one again and again."""

    def __init__(self, *answers: EngineError | None) -> None:
        super().__init__()
        self.answers = list(answers)
        self.renewals = 0
        self.until_s = time.monotonic() + TERM_S

    @property
    def leads_until_s(self) -> float:  # type: ignore[override]
        return self.until_s

    def renew_leadership(self) -> None:
        began_s = time.monotonic()
        self.renewals += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer is not None:
            raise answer
        self.until_s = began_s + TERM_S


def test_an_engine_without_terms_is_led_for_ever() -> None:
    assert math.isinf(MemoryEngine().leads_until_s)


def test_a_renewal_that_fails_is_tried_again_and_the_end_of_the_term_ends_it() -> None:
    lost = EngineUnreachable("no answer")
    engine = LedEngine(None, lost, None, None, lost)
    with pytest.raises(EngineDeposed, match="ended without being renewed"):
        asyncio.run(keep_leading(engine, TERM_S))
    assert time.monotonic() >= engine.leads_until_s
    assert engine.renewals > 5


def test_a_deposed_leader_hears_of_it_from_its_renewal() -> None:
    engine = LedEngine(None, EngineDeposed("another leads"))
    with pytest.raises(EngineDeposed, match="another leads"):
        asyncio.run(keep_leading(engine, TERM_S))
    assert engine.renewals == 2


def test_a_coordinator_whose_term_is_over_answers_nobody_and_ends() -> None:
    async def body() -> None:
        engine = LedEngine(None)
        coordinator = Coordinator(CoordinatorSettings(listen="127.0.0.1:0", lease_s=60.0), engine)
        engine.until_s = time.monotonic() + 3600.0
        await coordinator.start()
        try:
            async with grpc.aio.insecure_channel(coordinator.address) as channel:
                stub = metadata_pb2_grpc.MetadataStub(channel)
                stream = stub.Session()
                await stream.write(pb.ClientMessage(hello=pb.Hello(subdir="/", description="test")))
                first: Any = await stream.read()
                assert first.events[0].HasField("welcome")
                assert (await stub.Status(pb.StatusRequest())).cluster_id == coordinator.cluster_id
                engine.until_s = time.monotonic()  # as after a long pause of the process
                with pytest.raises(grpc.aio.AioRpcError, match="another coordinator leads"):
                    await stub.Status(pb.StatusRequest())
                request = pb.Request(seq=1, mkdir=pb.MkDir(parent=1, name=b"d", mode=0o755))
                await stream.write(pb.ClientMessage(requests=[request]))
                await asyncio.wait_for(coordinator.run(), 10.0)
                assert coordinator.failed
        finally:
            await coordinator.stop()
            engine.close()

    asyncio.run(body())
