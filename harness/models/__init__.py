"""Large multimodal models, divided into the parts between which a scheme may cut."""
