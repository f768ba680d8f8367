"""Attribute changes of a file made under its WRITE lease and not yet sent; no I/O, no clock."""

from dataclasses import dataclass

from cairnfs.rpc.v1 import common_pb2, metadata_pb2 as pb

_FIELDS = ("mode", "uid", "gid", "atime_ns", "mtime_ns")
_PERMISSION_BITS = 0o7777


@dataclass(slots=True)
class PendingAttributes:
    """`unsent` collects changes, newer over older; `sending` is on its way. One is on its way at a time."""

    unsent: pb.SetAttr | None = None
    sending: pb.SetAttr | None = None
    since_s: float = 0.0

    def __bool__(self) -> bool:
        return self.unsent is not None or self.sending is not None

    def add(self, change: pb.SetAttr, now_s: float, now_ns: int) -> None:
        """Take a change without a size; it happened at `now_ns`, which becomes the ctime."""
        if self.unsent is None:
            self.unsent = pb.SetAttr(ino=change.ino)
            self.since_s = now_s
        self.unsent.MergeFrom(change)
        self.unsent.ctime_ns = now_ns

    def written(self) -> None:
        """The file was written: its commit carries a newer mtime."""
        if self.unsent is not None:
            self.unsent.ClearField("mtime_ns")

    def take(self) -> pb.SetAttr | None:
        """What to send now; nothing while something is on its way."""
        if self.sending is not None:
            return None
        self.sending, self.unsent = self.unsent, None
        return self.sending

    def sent(self) -> None:
        """What was on its way is durable."""
        self.sending = None

    def failed(self) -> None:
        """What was on its way is unsent again, below newer changes."""
        older, newer = self.sending, self.unsent
        self.sending = None
        if older is not None:
            if newer is not None:
                older.MergeFrom(newer)
            self.unsent = older

    def clear(self) -> None:
        """Forget everything: the file is gone, or its session."""
        self.unsent = self.sending = None


def overlay(attr: common_pb2.Attr, change: pb.SetAttr | None) -> None:
    """Show `change` in attributes that do not have it yet."""
    if change is None:
        return
    for name in _FIELDS:
        if change.HasField(name):  # type: ignore[arg-type]
            value = getattr(change, name)
            setattr(attr, name, (attr.mode & ~_PERMISSION_BITS) | value if name == "mode" else value)
    attr.ctime_ns = max(attr.ctime_ns, change.ctime_ns)
