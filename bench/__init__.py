"""`make bench`: dragon beside its peers and its physical yardsticks, in one run on one machine."""
