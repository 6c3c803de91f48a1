"""Networks as plain modules: nothing here needs a Trainer."""
