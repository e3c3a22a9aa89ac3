"""Everything that speaks HTTP. A handler takes a request and returns a response or raises an `ApiError`."""
