"""Latency studies of multimodal inference that is split between a device and an edge server."""

__version__ = "0.1.0"
