"""The code of a user's own model: random features, of which nothing has to be installed."""

OWN_MODEL = """
from harness.errors import UnavailableError
from harness.schemes.fake import FakeModels


class Backbone:
    def __call__(self, name, *, device, weights, max_pixels):
        return FakeModels()

    def digests(self, weights):
        if weights == "absent":
            raise UnavailableError("own_model: its weights are not here")
        return {"language": "0123456789abcdef"}

    def features_of(self, weights):
        return 16

    def patches_of(self, width_px, height_px, weights):
        return 1


backbone = Backbone()
"""
