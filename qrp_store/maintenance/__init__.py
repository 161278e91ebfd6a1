"""A store's upkeep: checking, mending, removing, copying it, and whether a machine is fit for it."""
