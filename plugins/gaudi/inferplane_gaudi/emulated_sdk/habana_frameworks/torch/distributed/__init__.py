"""Ways between devices."""
