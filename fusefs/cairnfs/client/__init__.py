"""The client: a metadata session and chunk I/O over gRPC, as trio code."""
