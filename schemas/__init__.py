"""What each feed is, as data: fields, types, units, ranges and aggregates. All else derives from it."""
