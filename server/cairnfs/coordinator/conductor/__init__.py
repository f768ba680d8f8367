"""What happens to a request: recalls, commit, grants, reply. A state machine without I/O."""

from cairnfs.coordinator.conductor.conductor import Conductor
from cairnfs.coordinator.conductor.context import Commit, Config, Effects

__all__ = ["Commit", "Conductor", "Config", "Effects"]
