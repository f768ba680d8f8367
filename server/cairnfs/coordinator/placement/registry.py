"""Finds a selector by its name: the built-in ones, then installed plug-ins."""

from importlib.metadata import entry_points
from typing import Final, cast

from cairnfs.coordinator.placement.capacity import CapacitySelector
from cairnfs.coordinator.placement.first_healthy import FirstHealthySelector
from cairnfs.coordinator.placement.selector import Selector

ENTRY_POINT_GROUP: Final = "cairnfs.selectors"
_BUILT_IN: Final[dict[str, type[Selector]]] = {
    "capacity": CapacitySelector,
    "first-healthy": FirstHealthySelector,
}


def load_selector(name: str) -> Selector:
    """The selector called `name`; raises ValueError, naming those there are, for an unknown one."""
    built_in = _BUILT_IN.get(name)
    if built_in is not None:
        return built_in()
    plug_ins = entry_points(group=ENTRY_POINT_GROUP)
    if name in plug_ins.names:
        return cast("Selector", plug_ins[name].load()())
    known = ", ".join(sorted({*_BUILT_IN, *plug_ins.names}))
    raise ValueError(f"there is no selector {name!r}; there are: {known}")
