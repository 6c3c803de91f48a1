"""From a checkpoint and files to masks: predictor, loop over files, what is written."""
