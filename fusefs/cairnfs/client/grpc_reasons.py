"""What people should read of gRPC's long explanations."""


def short_reason(details: str | None, otherwise: str) -> str:
    """The innermost cause in the details of a failed call ("Connection refused"), or `otherwise`."""
    if not details:
        return otherwise
    return details.rpartition("error: ")[2] or details
