"""Device memory whose pages can be given back while its addresses stay."""
