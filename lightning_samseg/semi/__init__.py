"""What semi-supervised methods share beside their losses: ramps, teachers, mixed and strongly augmented images."""
