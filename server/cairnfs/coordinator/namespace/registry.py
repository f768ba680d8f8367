"""All namespace operations, by the name of their field in `Request.op`."""

from typing import Final

from cairnfs.coordinator.namespace.operation import OperationSpec
from cairnfs.coordinator.namespace.ops import (
    commit_write,
    copy_range,
    fallocate,
    get_attr,
    get_extents,
    get_xattr,
    link,
    list_xattr,
    lookup,
    mkdir,
    mknod,
    open as open_file,
    readdir,
    readlink,
    remove_xattr,
    rename,
    replace_extents,
    rmdir,
    set_attr,
    set_xattr,
    symlink,
    unlink,
)

_SPECS: Final = (
    commit_write.SPEC,
    copy_range.SPEC,
    fallocate.SPEC,
    get_attr.SPEC,
    get_extents.SPEC,
    get_xattr.SPEC,
    link.SPEC,
    list_xattr.SPEC,
    lookup.SPEC,
    mkdir.SPEC,
    mknod.SPEC,
    open_file.SPEC,
    open_file.SPEC_TRUNCATE,
    readdir.SPEC,
    readlink.SPEC,
    remove_xattr.SPEC,
    rename.SPEC,
    replace_extents.SPEC,
    rmdir.SPEC,
    set_attr.SPEC,
    set_xattr.SPEC,
    symlink.SPEC,
    unlink.SPEC,
)

# "open_truncate" is the one name that is no field: `Open` with its `truncate` flag set.
OPERATIONS: Final[dict[str, OperationSpec]] = {spec.name: spec for spec in _SPECS}
