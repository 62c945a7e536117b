"""The two halves of a scheme on two machines: the protocol over HTTP, the server, and the device's client."""

TOKEN_VARIABLE = "TOFC_HARNESS_TOKEN"
"""The environment variable with the bearer token, on both sides: other users can see a command line."""

SHAPE = "link by --shape"
"""The name of what shapes a device's sending, among the digests of a run."""
