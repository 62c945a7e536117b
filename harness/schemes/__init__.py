"""The contract of a scheme, and the steps that schemes share."""
