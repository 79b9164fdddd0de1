"""Training a generator: `genadapter train CONFIG`."""
