"""Large multimodal models in the parts between which a scheme may cut."""
