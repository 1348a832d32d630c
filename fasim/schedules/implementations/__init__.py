"""Named real kernel families: tiling and mapping tables as data, each with its source."""
