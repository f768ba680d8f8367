"""What gRPC's library writes to stderr by itself."""

import os


def silence_grpc() -> None:
    """Keep gRPC from writing lines of its own beside ours; has no effect once gRPC is loaded.

    What fails comes back as an error to whoever called it. GRPC_VERBOSITY in the environment wins over this.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
