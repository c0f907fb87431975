"""Teacher targets: what a teacher makes of every tile, written once, so that students train with no teacher."""
