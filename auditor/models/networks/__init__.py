"""Small networks that no installed library provides, in plain torch: a vision classifier and an image projector."""
