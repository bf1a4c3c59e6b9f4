"""Properties that every entry of the catalog has."""
