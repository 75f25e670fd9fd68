"""A page on one's own machine to try the network on a photo or a short clip."""
