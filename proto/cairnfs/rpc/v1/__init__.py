"""Generated from the .proto files here by proto/generate.py."""
