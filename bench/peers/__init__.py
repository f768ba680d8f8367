"""The file systems that can be measured, by name."""

from collections.abc import Mapping

from bench.peers.cairnfs import CairnFS
from bench.peers.cephfs import CephFS
from bench.peers.glusterfs import GlusterFS
from bench.peers.juicefs import JuiceFS
from bench.peers.local import Local
from bench.peers.moosefs import MooseFS
from bench.peers.seaweedfs import SeaweedFS
from bench.peers.sshfs import SSHFS
from bench.peers.system import System

SYSTEMS: Mapping[str, type[System]] = {
    system.name: system for system in (Local, CairnFS, MooseFS, GlusterFS, CephFS, JuiceFS, SeaweedFS, SSHFS)
}
