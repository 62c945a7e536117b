"""What a publication claims in numbers, as data, and what finished runs say of each claim."""
