"""The bulk codec: chunk frames in the exact protobuf wire form, without copying payloads twice."""
