"""The coordinator: begins a study and says who takes part, with which keys."""
