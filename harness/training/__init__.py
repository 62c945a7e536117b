"""Algorithm 1: a codec, a router and a backbone's adapter trained together, in miniature and at full size."""
