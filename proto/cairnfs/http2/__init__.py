"""gRPC's wire form, HTTP/2, for the streams whose cost per message counts; no I/O."""
