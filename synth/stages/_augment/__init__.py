"""What the stages `augment` and `rewrite` share: seeds, tags and `AugmentationRun`."""
