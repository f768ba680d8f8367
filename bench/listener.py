"""A session's listener for benchmarks that keep no caches."""

from cairnfs.client.interface import Holdings
from cairnfs.rpc.v1 import metadata_pb2 as pb


class NoCaches:
    """Takes no interest in the session's events."""

    def on_reply(self, request: pb.Request, reply: pb.Reply) -> None: ...

    def on_recall(self, recall: pb.Recall) -> None: ...

    def on_welcome(self, welcome: pb.Welcome) -> None: ...

    def on_doubt(self) -> None: ...

    def on_trust(self) -> None: ...

    def on_flush(self, number: int) -> None: ...

    def on_notice(self, notice: pb.Notice) -> None: ...

    def holdings(self) -> Holdings:
        """Nothing to reclaim."""
        return Holdings()
