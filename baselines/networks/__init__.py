"""The networks of the learned image codecs: torch is imported here, and not by the schemes that use them."""
