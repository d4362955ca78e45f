"""One module a part; each has `async def measure(place: Place, rounds: int) -> list[Table]`."""
