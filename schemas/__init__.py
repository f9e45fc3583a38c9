"""What each feed is, as data: fields, types, units, ranges and aggregates. Everything else derives from it."""
