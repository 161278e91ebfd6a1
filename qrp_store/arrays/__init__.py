"""Write-once blocked arrays, as plain Zarr v3 below one root. Only this package imports zarr."""
