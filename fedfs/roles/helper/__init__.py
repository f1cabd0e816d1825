"""The helper of secure sums: knows the masks of updates, adds them up, and sees no update."""
