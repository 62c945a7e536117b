"""The schemes that TOFC is compared with."""
