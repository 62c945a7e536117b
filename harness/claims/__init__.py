"""A publication's numerical claims as data, and what finished runs show about each."""
