"""The servers' end of gRPC, spoken on asyncio's sockets (docs/decisions/0007)."""
