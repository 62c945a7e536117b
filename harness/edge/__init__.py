"""The two halves of a scheme on two machines: what passes between them over HTTP, the server, the device's end."""

TOKEN_VARIABLE = "TOFC_HARNESS_TOKEN"
"""The variable of the environment that has the bearer token, on both sides: a command line is seen by others."""
