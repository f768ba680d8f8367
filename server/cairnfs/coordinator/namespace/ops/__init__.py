"""The namespace operations, one per module, each with its OperationSpec as SPEC."""
