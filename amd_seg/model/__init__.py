"""The two pathways of AMD and the objective that trains them together."""
