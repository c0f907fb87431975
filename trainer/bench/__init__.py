"""`python -m trainer.bench`: sizes in, the measured speed and memory of a stage out."""
